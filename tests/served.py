# SPDX-License-Identifier: Apache-2.0
"""Prints what TensorBoard serves for a log folder, as JSON.

    python -m tests.served LOGDIR PATH PATH ...

It needs a process of its own, because TensorBoard would parse our flags.
"""

import json
import sys

from tensorboard import default, program
from werkzeug.test import Client


def served(logdir, paths):
    """The answers below /data/plugin, without a server."""
    board = program.TensorBoard(default.get_static_plugins())
    board.configure(
        logdir=logdir,
        load_fast="false",
        reload_task="blocking",
        reload_interval=0,
    )
    ingester = board._make_data_ingester()
    ingester.start()
    server = board._make_server()
    try:
        client = Client(server.app)
        return [
            json.loads(client.get(f"/data/plugin/{path}").get_data())
            for path in paths
        ]
    finally:
        server.server_close()


if __name__ == "__main__":
    print(json.dumps(served(sys.argv[1], sys.argv[2:])))
