"""Metrics, comparisons and reports, all from predictions and targets."""
