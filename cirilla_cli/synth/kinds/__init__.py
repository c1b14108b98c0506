"""Kinds of rows made from one page's running text, one file each."""
