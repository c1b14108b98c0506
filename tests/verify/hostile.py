"""Answers that are meant to do harm where somebody runs, expands or matches them."""

CODE = (
    "__import__('os').system('touch {trap}')",
    "[open('{trap}', 'w')]",
    'exec(chr(111)+\'pen("{trap}", "w")\')',
    "().__class__.__base__.__subclasses__(), '{trap}'",
    "(lambda: open('{trap}', 'w'))()",
    "`touch {trap}`",
    "$(touch {trap})",
    "!!python/object/apply:os.system ['touch {trap}']",
    "{{% for x in [].__class__.__base__.__subclasses__() %}}{{{{ x('{trap}') }}}}{{% endfor %}}",
)
"""Each creates the file ``trap`` where it is executed."""

POWERS = (
    "9**9**8", "(9)**(9**9)", "9**(9*9*9*9*9*9*9*9)", "2**2**2**2**2**2", "1e999999999", "9" * 19_999, "x**x**x**9**9",
    "(x+1)**99999", "factorial(99999999)", "10**10**10/3", "-9**-9**9**9", "1/0", "0**-1",
)  # fmt: skip
"""Numbers and products that nobody can write out."""

BRACKETS = (
    "(", "[", "{", "'", '"', "[[", "[1,", "(((((", "[" * 5000, "(" * 5000, "{" * 5000, "[" * 300 + "]" * 300,
    "-" * 5000 + "1", "(" * 90 + "1" + ")" * 90, '"""', "\\", "[[1, 2], [3", "]]", ")))))",
)  # fmt: skip
"""What does not close, closes too often, or is nested deeper than parsers go."""

ODD = (
    "", " ", "\n" * 1000, "\x00", "\ud800", "\u202e1", "None", "nan", "inf", "nan+nanj", "-Infinity", "\ufffd",
    "a" * 19_999, "1 " * 9_000, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "<answer>" * 500,
)  # fmt: skip
"""What parsers and regular expressions stumble over."""
