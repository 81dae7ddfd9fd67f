"""Who may ask for what: tokens, the proxy in front, hosts and origins, limits of rate, denied requests."""
