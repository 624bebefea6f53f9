"""From a config to a finished run: studies, plans, trials, workers."""
