"""From a profile to the cluster that stages run on. Nothing is started or contacted before the first stage needs it."""

import os
from collections.abc import Mapping
from pathlib import Path

from clusters.profiles import LocalProfile, Profile
from orchestrator.errors import RecipeError
from orchestrator.launch import Cluster, LocalRay, RayAddress

TOKEN_VARIABLE = "RAY_AUTH_TOKEN"


def connect(profile: Profile, environment: Mapping[str, str] = os.environ) -> Cluster:
    """Raises: RecipeError: the token file of the profile cannot be read."""
    if isinstance(profile, LocalProfile):
        return Cluster(
            LocalRay(
                cpus=profile.cpus,
                gpus=profile.gpus,
                memory_gib=profile.memory_gib,
                object_store_mib=profile.object_store_mib,
            )
        )
    token = _read_token(Path(profile.token_file)) if profile.token_file else environment.get(TOKEN_VARIABLE, "")
    return Cluster(RayAddress(address=profile.address, token=token))


def _read_token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"token_file: cannot read {file}: {error}; expected the token of the Ray cluster") from error
    if not token:
        raise RecipeError(f"token_file: {file} is empty; expected the token of the Ray cluster")
    return token
