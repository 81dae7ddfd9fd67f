"""`illume drain-node`: leave this node before it is taken away. Called by hooks of Kubernetes, Slurm, and by people."""

import click

from clusters.spot_notices import notice_source, wait_for_notice
from orchestrator.cluster.draining import (
    RayAddress,
    cluster_address,
    drain,
    node_of_this_machine,
    notify_stage_drivers,
    wait_for_processes,
    wait_until_left,
)
from orchestrator.cluster.ray_hooks import RayNode
from orchestrator.commands.shared.formatting import duration_text
from orchestrator.commands.shared.numbers import AT_LEAST_ZERO, FiniteNumber
from orchestrator.commands.shared.options import examples
from orchestrator.errors import NodeLostError

_LEFT_FOR_KILL_S = 5.0  # of the notice, so that this command answers before the machine goes


@click.command(
    "drain-node",
    epilog=examples(
        "drain-node --within-s 120 --message 'maintenance' # by hand, on the node",
        "drain-node --within-s 110 --wait # as preStop hook of a pod",
        "drain-node --watch auto # on a spot machine: waits for its notice",
    ),
)
@click.option("--address", default="", metavar="HOST:PORT", help="Ray's address; default: of the Ray of this machine.")
@click.option("--node-id", default="", metavar="ID", help="Ray's id of the node; default: the one of this machine.")
@click.option("--within-s", type=AT_LEAST_ZERO, default=30.0, show_default=True, help="Seconds until the node goes.")
@click.option("--message", default="drained by hand", show_default=True, help="Why; Ray shows it.")
@click.option("--wait", "waits", is_flag=True, help="Return when the node has no work any more, or its time is over.")
@click.option(
    "--watch",
    "cloud",
    default=None,
    metavar="CLOUD",
    help="auto, aws, gcp, azure: wait for the notice of a spot machine, then drain.",
)
@click.option(
    "--metadata-address", default="", metavar="URL", help="Of the metadata service, if it is not the cloud's."
)
@click.option("--interval-s", type=FiniteNumber(min=0.1), default=5.0, show_default=True, help="Of --watch.")
def drain_node_command(
    address: str,
    node_id: str,
    within_s: float,
    message: str,
    waits: bool,
    cloud: str | None,
    metadata_address: str,
    interval_s: float,
) -> int:
    """Leave this node: Ray places no work there, trainings commit a checkpoint, stage drivers leave with 85.

    Nothing of it counts as a failure of a stage.
    """
    if cloud is not None:
        source = notice_source(cloud, metadata_address)
        click.echo(f"waiting for the notice of {source.cloud}")
        notice = wait_for_notice(source, interval_s=interval_s, report_failure=lambda text: click.echo(text, err=True))
        message, within_s, waits = notice.text, notice.within_s, True
        click.echo(f"{message}, in {duration_text(within_s)}")
    at = cluster_address(address)
    try:
        node = node_of_this_machine(at, node_id)
    except NodeLostError as error:  # its cluster ended before: a hook has nothing to do
        click.echo(str(error))
        return 0
    return _leave(at, node, message=message, within_s=within_s, waits=waits)


def _leave(at: RayAddress, node: RayNode, *, message: str, within_s: float, waits: bool) -> int:
    wait_s = max(0.0, within_s - _LEFT_FOR_KILL_S)
    if node.is_head:  # draining it would end the cluster under the stage driver that is about to save
        told = notify_stage_drivers(at)
        click.echo(
            f"node {node.node_id} is the head of its cluster, which ends with it; told {len(told)} stage drivers"
        )
        left = not told or (waits and wait_for_processes(told, wait_s))
    else:
        drain(at, node, message=message, within_s=within_s)
        click.echo(f"node {node.node_id} is drained: {message}")
        left = waits and wait_until_left(at, node, wait_s)
    if waits:
        click.echo(
            "no work is left" if left else f"work is left after {duration_text(wait_s)}; its stages go on elsewhere"
        )
    return 0
