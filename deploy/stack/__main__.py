"""``python -m deploy.stack start|stop|status``: every service of the platform on one machine, from one folder."""

import argparse
from pathlib import Path

from datasets.command_line import CommandParser, natural_number, positive_integer, run_command
from deploy.stack.server import Server
from deploy.stack.stack import Stack, StackSettings


def main() -> int:
    """Start, stop or show the stack."""
    arguments = parse_arguments()
    stack = Stack(StackSettings(folder=arguments.folder, cpus=arguments.cpus, nodes=arguments.nodes))
    return VERBS[arguments.verb](stack)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line and the environment."""
    parser = CommandParser(
        prog="python -m deploy.stack",
        description="Object storage, PostgreSQL (where installed), MLflow on loopback, and Ray, kept in one folder.",
    )
    parser.add_argument("verb", choices=VERBS, help="start what does not run; stop what was started; show what runs")
    parser.add_argument("folder", type=Path, help="where the stack keeps everything it has")
    parser.add_option("--cpus", metavar="N", type=positive_integer, default=2, help="CPUs of the Ray head")
    parser.add_option(
        "--nodes", metavar="N", type=natural_number, default=0, help="Ray nodes of one CPU each instead of the head's"
    )
    return parser.parse_args()


def start(stack: Stack) -> int:
    """Start what does not run and print where everything is."""
    stack.start()
    print(table(stack))
    print(f"\n    . {stack.folder / 'environment'}\n\nexports all that is needed; for example, from any folder:\n")
    print("    ray job submit -- python -m platform.search transformer\n")
    print(f"MLflow's account is in {stack.folder / 'environment'} (MLFLOW_TRACKING_USERNAME, ..._PASSWORD)")
    return 0


def stop(stack: Stack) -> int:
    """Stop what was started, and tell what that was."""
    stopped = stack.stop()
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing ran")
    return 0


def status(stack: Stack) -> int:
    """Print what runs; 1 where something does not."""
    print(table(stack))
    return 0 if all(server.is_running() for server in stack.servers) else 1


def table(stack: Stack) -> str:
    """Return one line for each service: whether it runs, and where."""
    addresses = stack.addresses()
    return "\n".join(f"{server.name:14}{_state(server):22}{addresses[server.name]}" for server in stack.servers)


def _state(server: Server) -> str:
    return f"runs ({server.process.pid})" if server.process and server.is_running() else "does not run"


VERBS = {"start": start, "stop": stop, "status": status}

if __name__ == "__main__":
    raise SystemExit(run_command(main))
