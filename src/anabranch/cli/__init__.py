"""The command line: run flows, and look at what the store knows of runs."""
