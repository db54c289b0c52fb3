"""Where timm's published weights come from: this machine's cache, else the hub, if it answers."""

from __future__ import annotations

from typing import Any

import timm

from simsam_batch.errors import SettingsError

_WEIGHTS = "pytorch_model.bin"
_PATIENCE_S = 10.0
_UNAVAILABLE = 500


def weights_source(full_name: str, name: str) -> dict[str, Any]:
    """What timm is to be told of where the weights of a model are: of a file in the cache, or nothing.

    What lies in the hub's cache is taken from there and nobody is asked whether it is the newest. Where it does not,
    the hub is asked once whether it answers, for its client asks again and again for a minute and more.

    Args:
        full_name: timm's name with its tag.
        name: what the user calls it, for messages.

    Returns:
        Entries of timm's ``pretrained_cfg_overlay``; empty if timm is to fetch the weights.

    Raises:
        SettingsError: they are not on this machine, and the hub does not answer, or may not be asked.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import get_session

    config = timm.get_pretrained_cfg(full_name)
    # timm reads files of other kinds by code of the model's own, from where they were published
    if not config.hf_hub_id or isinstance(config.custom_load, str):
        return {}
    repository, _, revision = config.hf_hub_id.partition("@")
    for file in _files(config):
        found = try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(found, str):
            return {"file": found, "custom_load": False}
    try:
        reply = get_session().head(_url(config), timeout=_PATIENCE_S)
        if reply.status_code >= _UNAVAILABLE:
            raise OSError(f"HTTP {reply.status_code}")
    # the errors of whichever HTTP library the hub's client has
    except Exception as error:
        raise not_fetched(full_name, name, error) from error
    return {}


def not_fetched(full_name: str, name: str, error: Exception) -> SettingsError:
    """What is said where weights could not be fetched.

    Args:
        full_name: timm's name with its tag.
        name: what the user calls it.
        error: why.
    """
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    url = _url(timm.get_pretrained_cfg(full_name))
    return SettingsError(
        f"backbone: the weights of {name} could not be fetched ({reason}), and are not on this machine. To mend it: "
        f"fetch {url} on a machine with a network and give it with --weights FILE; or copy that machine's cache to "
        f"{constants.HF_HUB_CACHE}; or compute without weights by --backbone descriptors"
    )


def _files(config: Any) -> list[str]:
    """The names that timm looks for, safetensors first."""
    name = config.hf_hub_filename or _WEIGHTS
    safe = "model.safetensors" if name == _WEIGHTS else f"{name.rpartition('.')[0]}.safetensors"
    return list(dict.fromkeys([safe, name]))


def _url(config: Any) -> str:
    if not config.hf_hub_id:
        return str(config.url or "its file")
    from huggingface_hub import hf_hub_url

    repository, _, revision = config.hf_hub_id.partition("@")
    return str(hf_hub_url(repository, _files(config)[0], revision=revision or None))
