"""Weights: a fast check without reading payload, a full check by SHA-256, both running where the data is; pure judgement here."""
