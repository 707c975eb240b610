"""Annotation formats, one file and one `Dataset` subclass each."""
