"""Nothing leaves the machine: a run and the app in a network namespace, whose only way out counts packets.

It takes root, and the commands `unshare` and `ip`; elsewhere it is skipped.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import sharpeye
from tests.browser.driving import served
from tests.engine.runs.watching import kill_all

ROOT = Path(__file__).parents[2]
# A cable to nobody, without IPv6 and ARP, with which the kernel itself would ask for neighbours.
WAY_OUT = """
set -e
ip link set lo up
ip link add out type veth peer name nobody
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set out arp off
ip link set nobody up
ip address add 198.51.100.1/24 dev out
ip link set out up
ip route add default dev out
exec "$@"
"""
BEYOND = ("198.51.100.2", 9)
PAGES = ("", "Run", "Review", "Team", "Map", "Diagnostics", "Compare", "Learn", "Export")


def packets() -> int:
    """How many have gone out."""
    answer = subprocess.run(["ip", "-s", "-j", "link", "show", "out"], capture_output=True, check=True)
    return int(json.loads(answer.stdout)[0]["stats64"]["tx"]["packets"])


def test_nothing_leaves(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    if os.geteuid() or not all(map(shutil.which, ("unshare", "ip"))):
        pytest.skip("takes root, unshare and ip")
    train, check = make_folder("train", 12, wrong=2, seed=1), make_folder("check", 6, seed=2)
    inside = [sys.executable, "-m", "tests.app.test_nothing_leaves", str(train), str(check), str(tmp_path)]
    command = ["unshare", "--net", "sh", "-c", WAY_OUT, "sh", *inside]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    canary, after_run, after_app = map(int, done.stdout.split())
    assert canary > 0
    assert (after_run, after_app) == (canary, canary)


def main(train: str, check: str, folder: Path) -> None:
    """Print how many packets have gone out: after one that was meant to, after a run, after a visit to the
    app."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as canary:
        canary.sendto(b"?", BEYOND)
    print(packets())
    workspace = folder / "ws"
    options = {"validation": check, "budget": "fast", "methods": ("val_loss",), "workspace": workspace}
    run = sharpeye.run(train, **options)
    print(packets())
    with served(workspace) as app:
        for page in PAGES:
            visit(f"{app.url}/{page}?run={run.id}", app.url)
        try:
            visit(app.url, "http://198.51.100.2")
        except InvalidStatus:
            pass
        else:
            raise AssertionError("a foreign page is let in")
    print(packets())
    kill_all(run.workspace)


def visit(address: str, origin: str) -> None:
    """Fetch a page, and have the app run its script as a browser does."""
    with urllib.request.urlopen(address) as answer:
        answer.read()
    host, _, rest = address.removeprefix("http://").partition("/")
    page, _, query = rest.partition("?")
    message = BackMsg()
    message.rerun_script.query_string = query
    message.rerun_script.page_name = page
    with connect(
        f"ws://{host}/_stcore/stream", origin=origin, subprotocols=["streamlit"], max_size=None
    ) as stream:
        stream.send(message.SerializeToString())
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(stream.recv(timeout=60))
            if answer.WhichOneof("type") == "script_finished":
                return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
