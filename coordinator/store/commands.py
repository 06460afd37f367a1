"""`carpool store`: what an operator does with a folder of state."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.errors import CarpoolError

app = typer.Typer(name="store", help="Look after what a coordinator keeps in --state DIR.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of --state.")]


@app.command("check")
def check_command(folder: Folder) -> None:
    """Read all of a store whose coordinator is stopped; exit code 1 when something in it is damaged."""
    from coordinator.store.checks import check
    from coordinator.store.opening import Occupied

    try:
        found = check(folder)
    except Occupied as occupied:
        raise CarpoolError(str(occupied)) from None
    except OSError as error:
        raise CarpoolError(f"cannot read {folder}: {error.strerror}") from None
    for trouble in found.troubles:
        print(trouble)
    print(
        f"{folder}: {found.jobs:,} jobs, {found.items:,} inputs, {found.results:,} results, "
        f"{found.documents:,} files and batches, {found.bytes:,} bytes; "
        f"{len(found.troubles) or 'no'} trouble{'' if len(found.troubles) == 1 else 's'}"
    )
    if found.troubles:
        raise typer.Exit(1)


@app.command("backup")
def backup_command(
    folder: Folder, target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder.")]
) -> None:
    """Copy a store, also while its coordinator serves; TARGET can be a --state."""
    from coordinator.store.backup import NotCopied, backup

    try:
        size = backup(folder, target)
    except NotCopied as why:
        raise CarpoolError(str(why)) from None
    print(f"{target}: {size:,} bytes")


@app.command("vacuum")
def vacuum_command(folder: Folder) -> None:
    """Give the room of forgotten jobs back to the disk, while the coordinator is stopped."""
    from coordinator.store import Corrupt
    from coordinator.store.opening import DATABASE, Occupied
    from coordinator.store.vacuum import vacuum

    if not (folder / DATABASE).is_file():
        raise CarpoolError(f"{folder} holds no store; give the folder of --state")
    try:
        before, after = vacuum(folder)
    except (Corrupt, Occupied) as why:
        raise CarpoolError(str(why)) from None
    except OSError as error:
        raise CarpoolError(f"cannot write {folder}: {error.strerror}; nothing is lost, free some space") from None
    print(f"{folder}: {before:,} bytes before, {after:,} now")
