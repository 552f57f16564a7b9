# The application of application.py in Ruby: six bytes, and /slow takes its time.
run lambda { |env|
  sleep 0.02 if env["PATH_INFO"] == "/slow"
  [200, { "Content-Type" => "text/plain", "Content-Length" => "6" }, ["hello\n"]]
}
