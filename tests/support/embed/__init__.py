"""What the tests of embed share: the servers under test, and applications for them."""
