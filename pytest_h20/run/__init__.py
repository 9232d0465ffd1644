"""One run, without pytest: settings, nodes, bring-up, endpoint, throughput, the end."""
