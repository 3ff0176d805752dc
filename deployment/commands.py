"""The command lines of Flower's processes, the same in a container and without one.

Every process runs apart (``--isolation process``): the SuperLink and SuperNodes talk to the
network, and a SuperExec beside each starts the app. So a lab's network-facing process does not
have the data, and the process that runs the app reaches nothing but its SuperNode. Both have the
lab's key: the one signs requests to the server with it, the other the lab's name.
"""

from pathlib import PurePath

from fedsc.errors import ConfigError


def superlink(folder: PurePath, host: str, port: int) -> list[str]:
    """Start the server's SuperLink.

    Parameters
    ----------
    folder
        The server's folder, as that process sees it.
    host, port
        Where it listens.
    """
    return [
        "flower-superlink",
        *("--host", host),
        *("--port", str(port)),
        *("--database", str(folder / "state" / "superlink.db")),
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "server.crt")),
        *("--ssl-keyfile", str(folder / "server.key")),
        "--enable-supernode-auth",
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder / "superexec.secret")),
        "--disable-runtime-dependency-installation",
    ]


def superexec(folder: PurePath, address: str) -> list[str]:
    """Start Flower's executor of apps beside a SuperLink or a SuperNode.

    Parameters
    ----------
    folder
        The server's or the lab's folder, as that process sees it.
    address
        ``host:port`` of the SuperLink or SuperNode it works for.
    """
    return [
        "flower-superexec",
        *("--runtime-api-address", address),
        *("--root-certificates", str(folder / "ca.crt")),
        *("--superexec-auth-secret-file", str(folder / "superexec.secret")),
    ]


def clientapp(folder: PurePath, address: str) -> list[str]:
    """Start the executor of a lab's app, which forks for each message.

    Parameters
    ----------
    folder
        The lab's folder, as that process sees it.
    address
        ``host:port`` of the SuperNode it works for.
    """
    return ["fedsc-executor", *superexec(folder, address)[1:]]


def supernode(
    folder: PurePath, lab: str, data: PurePath, server: str, host: str, port: int
) -> list[str]:
    """Start a lab's SuperNode.

    Parameters
    ----------
    folder
        The lab's folder, as that process sees it.
    lab
        Name of the lab.
    data
        Its file, as the executor of its app sees it.
    server
        ``host:port`` of the server.
    host, port
        Where it listens for the executor.

    Raises
    ------
    ConfigError
        If a path cannot be written in Flower's node config.
    """
    return [
        "fedsc-supernode",
        *("--superlink", server),
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / "supernode.key")),
        *("--node-config", _node_config_of(folder, lab, data)),
        *("--host", host),
        *("--port", str(port)),
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "runtime.crt")),
        *("--ssl-keyfile", str(folder / "runtime.key")),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder / "superexec.secret")),
    ]


def _node_config_of(folder: PurePath, lab: str, data: PurePath) -> str:
    return node_config(lab=lab, data=data, state=folder / "state", key=folder / "supernode.key")


def node_config(**values: PurePath | str) -> str:
    """Write a node config as ``--node-config`` wants it.

    Raises
    ------
    ConfigError
        If a value holds a quote, a backslash or a line break.
    """
    for key, value in values.items():
        if any(char in str(value) for char in "\"'\\\n"):
            raise ConfigError(
                f"{key} = {str(value)!r}: Flower's node config takes no quotes, backslashes or "
                "line breaks; use another path"
            )
    return " ".join(f'{key}="{value}"' for key, value in values.items())
