"""Options that every command shares."""

import click

DEFAULT_WORKSPACE = "~/.sharpeye"
WORKSPACE = click.option("--workspace", default=DEFAULT_WORKSPACE, show_default=True, metavar="DIR", help="Where runs are kept.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON line.")
