"""Drawing instances: one palette and one renderer for figures, videos and reports."""
