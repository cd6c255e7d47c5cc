"""Those who listen to the engine's events: log lines, the progress display."""
