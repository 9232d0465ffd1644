"""Words everybody speaks: errors, verdicts, settings, redaction."""
