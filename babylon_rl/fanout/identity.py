"""What a result depends on beside its input: our code, and the libraries that compute.

Two nodes whose identities are equal give the same results for the same task, on the same kind of processor.
"""

from collections.abc import Callable, Mapping

PACKAGE = "babylon_rl"
LIBRARIES = ("numpy", "torch", "transformers", "tokenizers", "msgspec")


def make_probe() -> Callable[[], dict[str, str]]:
    """Returns a function that tells the identity of the machine on which it is called.

    It is made here and not a module's own, so that it travels by value: it also runs where our code is
    missing, and says so by leaving `babylon_rl` out.
    """
    package, libraries = PACKAGE, LIBRARIES

    def probe() -> dict[str, str]:
        import hashlib
        import importlib.util
        import platform
        from importlib import metadata
        from pathlib import Path

        found = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in libraries:
            try:
                found[name] = metadata.version(name).partition("+")[0]
            except metadata.PackageNotFoundError:
                found[name] = "missing"
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folder, digest = Path(spec.origin).parent, hashlib.sha256()
            for file in sorted(folder.rglob("*.py")):
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
                digest.update(hashlib.sha256(file.read_bytes()).digest())
            found[package] = digest.hexdigest()[:12]
        return found

    return probe


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Returns in words what a node has otherwise than this process, None if nothing."""
    if PACKAGE not in theirs:
        return f"has no {PACKAGE}"
    differing = [
        f"{name} {theirs.get(name, 'missing')} instead of {version}"
        for name, version in ours.items()
        if theirs.get(name) != version
    ]
    return f"has {', '.join(differing)}" if differing else None
