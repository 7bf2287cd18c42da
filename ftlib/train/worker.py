"""What a Ray Train worker runs: from plain values to the loop's settings, strategy and device."""

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.logging import setup_logging


def train_worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    """Run the loop on this rank; returns its outcome, or `{"status": "error"}` with a user's error.

    A user's error is returned, not raised: Ray Train would take it for a lost worker and start again.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other, at every start
    setup_logging()
    import torch

    from ftlib.config.train import TrainConfig

    work = loop_config["work"]
    config = TrainConfig.model_validate(work["config"])
    if not config.scaling.use_gpu:
        torch.set_num_threads(max(1, int(config.scaling.cpus_per_worker)))
    device = _device(config.scaling.use_gpu)
    try:
        from ftlib.train.loop import train

        settings = loop_settings(config, work, device)
        strategy = make_strategy(config, device, settings.privacy)
        must_save = _Preemption() if torch.distributed.is_initialized() else None  # else this is no Ray Train worker
        return asdict(train(settings, strategy, loop_config["on_eval"], must_save))
    except UserError as error:
        return {"status": "error", "message": str(error)}


def loop_settings(config: Any, work: dict[str, Any], device: Any) -> Any:
    """The loop's settings on this node: the model's folder is found (or fetched) here."""
    from ftlib.models.load import pick_dtype
    from ftlib.models.source import resolve_source
    from ftlib.train.budget import PrivacySettings
    from ftlib.train.loop import LoopSettings
    from ftlib.train.objectives import ObjectiveSettings
    from ftlib.train.schedule import Schedule
    from ftlib.train.strategy import OptimizerSettings
    from ftlib.train.track import TrackSettings, flat_settings

    method, optim, loop, objective = config.method, config.optim, config.train, config.objective
    return LoopSettings(
        run_dir=Path(work["run_dir"]),
        model_folder=resolve_source(config.model.source, config.model.revision),
        base_source=config.model.source,
        train_data=Path(work["folders"]["train"]),
        val_data=Path(work["folders"]["val"]) if work["folders"]["val"] else None,
        resume_key=work["resume_key"],
        schedule=Schedule(
            optim.learning_rate, work["total_steps"], optim.scheduler, optim.warmup_fraction, optim.min_lr_fraction
        ),
        objective=ObjectiveSettings(
            objective.kind,
            objective.label_smoothing,
            objective.beta,
            objective.desirable_weight,
            objective.undesirable_weight,
        ),
        replay_data=Path(work["folders"]["replay"]) if work["folders"].get("replay") else None,
        replay_share=work.get("replay_share", 0.0),
        kind=method.kind,
        adapter=_adapter_spec(method),
        adapter_folder=Path(method.adapter) if method.adapter else None,
        tokenizer_folder=Path(work["tokenizer"]) if method.new_tokens else None,
        new_tokens=tuple(method.new_tokens),
        quantize_bits=method.bits,
        neftune_alpha=method.neftune_alpha,
        optimizer=OptimizerSettings(
            optim.weight_decay, optim.beta1, optim.beta2, optim.eps, optim.max_grad_norm, method.lora_plus_ratio
        ),
        batch_size=loop.global_batch_size,
        micro_batch_size=loop.micro_batch_size,
        precision=pick_dtype(loop.precision, device),
        activation_checkpointing=loop.activation_checkpointing,
        eval_every_steps=loop.eval_every_steps,
        checkpoint_every_steps=loop.checkpoint_every_steps or loop.eval_every_steps,
        keep_checkpoints=loop.keep_checkpoints,
        early_stopping_patience=loop.early_stopping_patience,
        early_stopping_min_delta=loop.early_stopping_min_delta,
        chunked_loss=loop.chunked_loss,
        attention=loop.attention,
        compile=loop.compile,
        track=TrackSettings(**config.track.model_dump(), params=dict(flat_settings(config.resolved()))),
        seed=config.seed,
        privacy=PrivacySettings(**work["privacy"]) if work.get("privacy") else None,
    )


def _adapter_spec(method: Any) -> Any:
    from ftlib.models.adapt import AdapterSpec

    targets = method.target_modules
    return AdapterSpec(
        rank=method.rank,
        alpha=method.alpha,
        dropout=method.dropout,
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        init=method.init,
        rank_pattern=method.rank_pattern,
        alpha_pattern=method.alpha_pattern,
        target_parameters=tuple(method.target_parameters),
    )


def make_strategy(config: Any, device: Any, privacy: Any = None) -> Any:
    """The parallel strategy of a configuration; ZeRO-0 is plain data parallelism and runs as such."""
    import torch.distributed as dist

    from ftlib.train.strategy import DataParallel, SingleProcess

    if privacy is not None:
        from ftlib.train.private import PrivateDataParallel

        return PrivateDataParallel(device, privacy)
    if not dist.is_initialized():
        return SingleProcess(device)
    parallel = config.parallel
    if parallel.strategy == "deepspeed" and parallel.zero_stage:
        from ftlib.train.deepspeed import DeepSpeedZero, ZeroSettings

        zero = ZeroSettings(
            parallel.zero_stage, parallel.offload_optimizer, parallel.offload_params, parallel.hpz_partition_size
        )
        return DeepSpeedZero(device, zero, config.train.micro_batch_size)
    return DataParallel(device)


class _Preemption:
    """Tells once when Ray announces that a node of this run is about to go."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self) -> bool:
        from ray.train import get_preemption_info

        if self._told or get_preemption_info() is None:
            return False
        self._told = True
        return True


def _device(use_gpu: bool) -> Any:
    import torch

    if not use_gpu:
        return torch.device("cpu")
    from ray.train.torch import get_device

    return get_device()
