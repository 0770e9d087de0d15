"""What may stand in a DeepSpeed document, with DeepSpeed's defaults. Held to the installed library by a test."""

from __future__ import annotations

from typing import Any

Section = dict[str, Any]

OFFLOAD_OPTIMIZER: Section = {
    "device": "none",
    "nvme_path": None,
    "buffer_count": 4,
    "pin_memory": True,
    "pipeline_read": False,
    "pipeline_write": False,
    "fast_init": False,
    "ratio": 1.0,
    "super_offload": False,
    "cpuadam_cores_perc": 0.8,
}

OFFLOAD_PARAM: Section = {
    "device": "none",
    "nvme_path": None,
    "buffer_count": 5,
    "buffer_size": 100_000_000,
    "max_in_cpu": 1_000_000_000,
    "pin_memory": True,
}

ZERO: Section = {
    "stage": 0,
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "reduce_bucket_size": 500_000_000,
    "use_multi_rank_bucket_allreduce": True,
    "allgather_partitions": True,
    "allgather_bucket_size": 500_000_000,
    "overlap_comm": None,
    "load_from_fp32_weights": True,
    "elastic_checkpoint": False,
    "offload_param": OFFLOAD_PARAM,
    "offload_optimizer": OFFLOAD_OPTIMIZER,
    "sub_group_size": 1_000_000_000,
    "compute_grad_norm": True,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
    "stage3_model_persistence_threshold": 2**63 - 1,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_gather_16bit_weights_on_model_save": False,
    "stage3_gather_fp16_weights_on_model_save": False,
    "stage3_module_granularity_threshold": 0,
    "stage3_allgather_sequential": False,
    "stage3_use_all_reduce_for_fetch_params": False,
    "ignore_unused_parameters": True,
    "legacy_stage1": False,
    "round_robin_gradients": False,
    "parameter_alignment": False,
    "zero_hpz_partition_size": 1,
    "zero_quantized_weights": False,
    "zero_quantized_nontrainable_weights": False,
    "zero_quantized_gradients": False,
    "memory_efficient_linear": True,
    "pipeline_loading_checkpoint": False,
    "override_module_apply": True,
    "log_trace_cache_warnings": False,
    "enable_sanity_checks": False,
    "save_muon_momentum_buffer_in_memory": False,
    "leaf_module": {"classes": [], "names": [], "name_suffixes": []},
}

OPTIMIZER: Section = {"type": None, "params": {}, "legacy_fusion": False}

OPTIMIZER_PARAMS: dict[str, Section] = {
    "adamw": {
        "lr": 1e-3,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "torch_adam": False,
        "adam_w_mode": True,
        "bias_correction": True,
        "amsgrad": False,
        "fused": None,
        "foreach": None,
    },
    "lion": {"lr": 1e-4, "betas": [0.9, 0.99], "weight_decay": 0.0},
    "sgd": {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False, "dampening": 0.0},
}
"""By the kind of rayml's optimizer that does the same."""

SCHEDULER: Section = {"type": None, "params": {}}

WARMUP: Section = {"warmup_min_lr": 0.0, "warmup_max_lr": 0.001, "warmup_num_steps": 1000, "warmup_type": "log"}

SCHEDULERS: dict[str, Section] = {
    "LRRangeTest": {
        "lr_range_test_min_lr": 0.001,
        "lr_range_test_step_size": 2000,
        "lr_range_test_step_rate": 1.0,
        "lr_range_test_staircase": False,
        "last_batch_iteration": -1,
    },
    "OneCycle": {
        "cycle_min_lr": None,
        "cycle_max_lr": None,
        "decay_lr_rate": 0.0,
        "cycle_first_step_size": 2000,
        "cycle_second_step_size": None,
        "cycle_first_stair_count": 0,
        "cycle_second_stair_count": None,
        "decay_step_size": 0,
        "cycle_momentum": True,
        "cycle_min_mom": 0.8,
        "cycle_max_mom": 0.9,
        "decay_mom_rate": 0.0,
        "last_batch_iteration": -1,
    },
    "WarmupLR": {**WARMUP, "last_batch_iteration": -1},
    "WarmupDecayLR": {"total_num_steps": None, **WARMUP, "last_batch_iteration": -1},
    "WarmupCosineLR": {
        "total_num_steps": None,
        "warmup_min_ratio": 0.0,
        "warmup_num_steps": 1000,
        "cos_min_ratio": 0.0001,
        "warmup_type": "log",
        "last_batch_iteration": -1,
    },
}

FP16: Section = {
    "enabled": False,
    "auto_cast": False,
    "loss_scale": 0,
    "initial_scale_power": 16,
    "loss_scale_window": 1000,
    "hysteresis": 2,
    "consecutive_hysteresis": False,
    "min_loss_scale": 1,
    "fp16_master_weights_and_grads": False,
}

BF16: Section = {
    "enabled": False,
    "immediate_grad_update": False,
    "check_grad_overflow": True,
    "bf16_master_weights_and_grads": False,
    "bf16_optimizer_states": False,
}

MONITOR: Section = {"enabled": False, "output_path": "", "job_name": "DeepSpeedJobName"}

DOCUMENT: Section = {
    "train_batch_size": None,
    "train_micro_batch_size_per_gpu": None,
    "gradient_accumulation_steps": None,
    "managed_gradient_accumulation": True,
    "gradient_clipping": 1.0,
    "gradient_allreduce_op": "mean",
    "prescale_gradients": False,
    "gradient_predivide_factor": 1.0,
    "communication_data_type": None,
    "seq_parallel_communication_data_type": "fp32",
    "disable_allgather": False,
    "zero_allow_untested_optimizer": False,
    "zero_force_ds_cpu_optimizer": True,
    "steps_per_print": None,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "disable_python_gc": False,
    "dataloader_drop_last": False,
    "vocabulary_size": None,
    "log_level": None,
    "optimizer": OPTIMIZER,
    "scheduler": SCHEDULER,
    "zero_optimization": ZERO,
    "fp16": FP16,
    "bf16": BF16,
    "bfloat16": BF16,
    "data_types": {
        "grad_accum_dtype": None,
        "param_dtype": None,
        "buffer_dtype": None,
        "keep_in_fp32_modules": "auto",
    },
    "activation_checkpointing": {
        "partition_activations": False,
        "number_checkpoints": None,
        "contiguous_memory_optimization": False,
        "cpu_checkpointing": False,
        "profile": False,
        "synchronize_checkpoint_boundary": False,
    },
    "aio": {
        "block_size": 1_048_576,
        "queue_depth": 8,
        "intra_op_parallelism": 1,
        "single_submit": False,
        "overlap_events": True,
        "use_gds": False,
    },
    "flops_profiler": {
        "enabled": False,
        "recompute_fwd_factor": 0.0,
        "profile_step": 1,
        "module_depth": -1,
        "top_modules": 1,
        "detailed": True,
        "output_file": None,
    },
    "comms_logger": {"enabled": False, "verbose": False, "prof_all": True, "debug": False, "prof_ops": []},
    "timers": {"throughput": {"enabled": True, "synchronized": True}},
    "tensorboard": MONITOR,
    "csv_monitor": MONITOR,
    "wandb": {"enabled": False, "group": None, "team": None, "project": "deepspeed"},
}
"""Names at the top of a document; a section where the value is one. None: there is no default, or it depends."""

LEFT_TO_OTHERS: dict[str, str] = {
    "pipeline": "write train.strategy: {kind: pipeline}",
    "tensor_parallel": "write train.strategy: {kind: tensor_parallel}",
    "sequence_parallel_size": "rayml has no sequence parallelism",
    "data_parallel_size": "train.workers says it",
    "expert_parallel": "rayml has no expert parallelism",
    "use_data_before_expert_parallelism": "rayml has no expert parallelism",
    "hybrid_engine": "it serves reinforcement learning",
    "data_efficiency": "rayml reads the data, each row once in an epoch",
    "autotuning": "write train.autotune",
    "weight_quantization": "write a compress section",
    "compile": "write train.compile",
    "checkpoint": "rayml writes the checkpoints, see train.checkpoint",
    "datastates_ckpt": "rayml writes the checkpoints, see train.checkpoint",
    "comet": "rayml's own log has the metrics",
    "amp": "DeepSpeed has removed it; write train.precision",
    "elasticity": "DeepSpeed has removed it; the batch stays the same when train.workers changes",
    "sparse_gradients": "DeepSpeed has removed it",
    "sparse_attention": "DeepSpeed has removed it",
    "compression_training": "DeepSpeed has removed it; write a compress section",
    "quantize_training": "DeepSpeed has removed it; write a compress section",
    "curriculum_learning": "DeepSpeed has removed it",
    "progressive_layer_drop": "DeepSpeed has removed it",
    "eigenvalue": "DeepSpeed has removed it",
    "nebula": "DeepSpeed has removed it; rayml writes the checkpoints, see train.checkpoint",
    "graph_harvesting": "DeepSpeed has removed it",
    "torch_autocast": "write train.precision",
    "zenflow": "rayml cannot save its state",
}
"""What DeepSpeed knows or has known, and rayml does not hand to it, with the way to the same end. Switched off it may
stand there."""

UNDER_ZERO: dict[str, str] = {
    "cpu_offload": "write offload_optimizer: {device: cpu}",
    "cpu_offload_param": "write offload_param: {device: cpu}",
    "cpu_offload_use_pin_memory": "write pin_memory under offload_optimizer",
    "zenflow": "rayml cannot save its state",
    "mics_shard_size": "DeepSpeed has removed it",
    "mics_hierarchical_params_gather": "DeepSpeed has removed it",
    "zeropp_loco_param": "DeepSpeed has removed it",
}
"""The same under `zero_optimization`."""
