"""cirilla: a language model's whole life on a budget GPU."""

__version__ = "0.1.0"
