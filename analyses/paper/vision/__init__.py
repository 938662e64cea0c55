"""Which of the paper's results on pictures hold? One script an experiment, each with its figure and its JSON."""
