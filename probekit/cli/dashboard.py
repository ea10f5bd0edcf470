"""The command that opens the leakboard, on the loopback address unless told otherwise."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.out import print_json, reporting
from probekit.errors import BadInput, MissingExtra


def dashboard(
    root: Annotated[Path, typer.Argument(metavar="[RUNS]", help="Folder that holds the run folders.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    unsafe_expose: Annotated[
        bool, typer.Option("--unsafe-expose", help="Let other machines in: there is no password.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the command that would be started, and stop.")] = False,
) -> None:
    """Open the leakboard on this machine only."""
    with reporting("dashboard", as_json):
        command, environment = dashboard_command(root, port, not no_browser, address, unsafe_expose)
        if as_json:
            print_json("dashboard", True, [{"url": f"http://{address}:{port}", "command": command}])
            return
        if not root.is_dir():
            typer.echo(f"{root} does not exist yet; the page will say how to fill it.", err=True)
        typer.echo(f"leakboard: http://{address}:{port} (Ctrl-C stops it)")
        sys.stdout.flush()
        os.execve(sys.executable, command, environment)


def dashboard_command(
    root: Path, port: int, browser: bool, address: str = "127.0.0.1", unsafe_expose: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that serve the page: loopback, known hosts only, nothing sent anywhere.

    Raises BadInput for an address that others can reach without `unsafe_expose`, MissingExtra without streamlit.
    """
    from importlib.util import find_spec

    if address not in ("127.0.0.1", "localhost", "::1") and not unsafe_expose:
        raise BadInput(
            f"{address} lets other machines in, and the page has no password: add --unsafe-expose to mean it."
        )
    if find_spec("streamlit") is None:
        raise MissingExtra("the leakboard needs streamlit: pip install 'abstraction-probekit[app]'.")
    here = Path(__file__).resolve().parents[2] / "apps" / "leakboard" / "serve.py"
    spec = None if here.is_file() else find_spec("leakboard")
    app = here if spec is None or spec.origin is None else Path(spec.origin).parent / "serve.py"
    hosts = {"localhost", "127.0.0.1", address} - {"0.0.0.0", "::"}
    settings = {
        "server.address": address,
        "server.port": port,
        "server.headless": not browser,
        "server.fileWatcherType": "none",
        "server.enableStaticServing": False,
        "server.maxUploadSize": 1,
        "server.showEmailPrompt": False,
        "logger.hideWelcomeMessage": True,  # what it says is said already, and it offers to install things
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost" if address in ("0.0.0.0", "::") else address,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
    } | THEME
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    if not unsafe_expose:
        flags += [f"--server.allowedHosts={host}" for host in sorted(hosts)]
    command = [sys.executable, "-m", "streamlit", "run", str(app), *flags, "--", "--runs", str(root.resolve())]
    return command, dict(os.environ)


THEME: dict[str, object] = {
    "theme.font": "sans-serif",
    "theme.headingFont": "serif",
    "theme.baseRadius": "small",
    "theme.light.primaryColor": "#00609A",
    "theme.light.backgroundColor": "#fcfbf8",
    "theme.light.secondaryBackgroundColor": "#f3f0e9",
    "theme.light.textColor": "#14161a",
    "theme.light.borderColor": "#e0dcd2",
    "theme.dark.primaryColor": "#56B4E9",
    "theme.dark.backgroundColor": "#15171b",
    "theme.dark.secondaryBackgroundColor": "#1d2025",
    "theme.dark.textColor": "#e8e6e1",
    "theme.dark.borderColor": "#33373f",
}
