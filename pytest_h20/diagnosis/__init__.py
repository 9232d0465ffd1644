"""Known failures as data, and the judgement of engine logs: ready, waiting, failed or undetermined."""
