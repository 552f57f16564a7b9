# Three allocations of the shop, found by HAProxy or Traefik through Nomad's services. README.md has the seconds.
job "shop" {
  type = "service"

  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "10m"
    auto_revert       = true
  }

  group "shop" {
    count = 3

    # Taken out of the services, a balancer still has it for some seconds: that is what drain-delay is for, so Nomad
    # needs to wait for nothing itself.
    shutdown_delay = "0s"

    network {
      port "http" {}
      port "health" {}
    }

    service {
      provider = "nomad"
      name     = "shop"
      port     = "http"

      # The master answers, however busy the workers are.
      check {
        type     = "http"
        path     = "/"
        port     = "health"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "server" {
      driver = "exec"

      config {
        command = "/srv/shop/.venv/bin/prefork"
        args = [
          "wsgi", "shop:application", "--chdir", "/srv/shop",
          "--bind", "0.0.0.0:${NOMAD_PORT_http}", "--health-bind", "0.0.0.0:${NOMAD_PORT_health}",
          "--drain-delay", "10", "--graceful-timeout", "30", "--log-file", "-",
          "--control", "${NOMAD_ALLOC_DIR}/shop.control",
        ]
      }

      # SIGINT, which Nomad sends by itself, is a stop without drain-delay.
      kill_signal = "SIGTERM"
      # More than drain-delay + graceful-timeout. The client's max_kill_timeout, 30 s by default, has to allow it.
      kill_timeout = "60s"

      resources {
        cpu    = 1000
        memory = 512
      }
    }
  }
}
