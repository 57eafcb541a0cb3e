"""Every name of a library that is used here and that the library does not promise to keep.

`tests/models/test_library_internals.py` looks for each of them in the installed library, so that an upgrade fails with
the name and what it was needed for. A method that is overridden is one of them: when the library calls it no longer,
nothing fails by itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Use:
    """One name. owner: the module, or module:class, that has it; of one that is set on objects, whose source sets it.

    where: the module of this package that uses it.
    """

    owner: str
    name: str
    needed_for: str
    where: str
    on_objects: bool = False


_TORCH = "bench/models/library_internals/torch_internals.py"
_TRANSFORMERS = "bench/models/library_internals/transformers_internals.py"
_ACCELERATE = "bench/models/library_internals/accelerate_internals.py"
_BITSANDBYTES = "bench/models/library_internals/bitsandbytes_internals.py"
_DEEPSPEED = "bench/models/library_internals/deepspeed_internals.py"
_EVALUATE = "bench/models/library_internals/evaluate_internals.py"
_TRAINER = "bench/training/engines/trainer.py"

USES = (
    Use(
        owner="torch.autograd.graph",
        name="_engine_run_backward",
        needed_for="a backward pass that leaves function modes in force, for the activations of a memory plan",
        where=_TORCH,
    ),
    Use(
        owner="torch.utils._python_dispatch",
        name="TorchDispatchMode",
        needed_for="seeing every tensor that a step makes, for the activations of a memory plan",
        where=_TORCH,
    ),
    Use(
        owner="torch.utils._pytree",
        name="tree_leaves",
        needed_for="the tensors among an operation's results, for the activations of a memory plan",
        where=_TORCH,
    ),
    Use(
        owner="torch.utils._pytree",
        name="tree_map",
        needed_for="casting a function's arguments as autocast does on CUDA, for memory plans",
        where=_TORCH,
    ),
    Use(
        owner="torch.ops:aten",
        name="_scaled_dot_product_flash_attention_for_cpu",
        needed_for="the log-sum-exp of attention on a CPU, by which attention to a shared prefix is merged",
        where=_TORCH,
    ),
    Use(
        owner="torch.ops:aten",
        name="_scaled_dot_product_efficient_attention",
        needed_for="the log-sum-exp of float32 attention on a GPU, by which attention to a shared prefix is merged",
        where=_TORCH,
    ),
    Use(
        owner="torch.ops:aten",
        name="_scaled_dot_product_flash_attention",
        needed_for="the log-sum-exp of 16-bit attention on a GPU, by which attention to a shared prefix is merged",
        where=_TORCH,
    ),
    Use(
        owner="torch.cuda.memory",
        name="_snapshot",
        needed_for="the settings that CUDA's allocator really has, for the record",
        where="bench/utils/process.py",
    ),
    Use(
        owner="torch.distributed.fsdp:FSDPModule",
        name="_get_fsdp_state",
        needed_for="scoring a model that FSDP2 shards by calls of its body, or of its head, alone",
        where=_TORCH,
    ),
    Use(
        owner="torch.distributed.fsdp._fully_shard._fsdp_state:FSDPState",
        name="_lazy_init",
        needed_for="scoring a model that FSDP2 shards by calls of its body, or of its head, alone",
        where=_TORCH,
    ),
    Use(
        owner="deepspeed.runtime.zero.partitioned_param_coordinator:PartitionedParameterCoordinator",
        name="_invalidate_trace",
        needed_for="scoring under ZeRO-3, where forwards come in another order than in training",
        where=_DEEPSPEED,
    ),
    Use(
        owner="deepspeed.runtime.zero.partitioned_param_coordinator:PartitionedParameterCoordinator",
        name="_PartitionedParameterCoordinator__params_to_release",
        needed_for="scoring under ZeRO-3 without the layers that its cache says training needs again",
        where=_DEEPSPEED,
    ),
    Use(
        owner="deepspeed.runtime.zero.parameter_offload",
        name="_in_forward",
        needed_for="scoring under ZeRO-3 a model that reads a parameter outside of its own module",
        where=_DEEPSPEED,
        on_objects=True,
    ),
    Use(
        owner="transformers:PretrainedConfig",
        name="_attn_implementation",
        needed_for="putting another attention function into a model for one forward, and the record's attention",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers:PreTrainedModel",
        name="_tied_weights_keys",
        needed_for="the name that a class of models has its body under, where its `base_model_prefix` is another",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers:PreTrainedModel",
        name="_no_split_modules",
        needed_for="the classes of layers that FSDP shards one by one",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers:PreTrainedModel",
        name="_keep_in_fp32_modules",
        needed_for="the layers that are never quantised, for memory plans",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers:PreTrainedModel",
        name="_get_dtype_plan",
        needed_for="the type of each layer of a quantised model with random weights",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers:PreTrainedModel",
        name="_initialize_weights",
        needed_for="drawing the weights of a quantised model block by block",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers.modeling_utils",
        name="_is_hf_initialized",
        needed_for="keeping quantised random weights from being drawn again",
        where=_TRANSFORMERS,
        on_objects=True,
    ),
    Use(
        owner="transformers.modeling_utils",
        name="_gradient_checkpointing_func",
        needed_for="moving checkpointed activations to the host, and recomputing them without pads",
        where=_TRANSFORMERS,
        on_objects=True,
    ),
    Use(
        owner="transformers.core_model_loading",
        name="_weight_conversions",
        needed_for="saving a span model under its own names though it was loaded from a language model's",
        where=_TRANSFORMERS,
        on_objects=True,
    ),
    Use(
        owner="transformers.integrations.deepspeed",
        name="_hf_deepspeed_config_weak_ref",
        needed_for="scoring a whole model during ZeRO-3 training without collective calls in its forward",
        where=_TRANSFORMERS,
    ),
    *(
        Use(
            owner="transformers.trainer",
            name=name,
            needed_for="going on with the loss since the last log after a resumed training",
            where=_TRAINER,
            on_objects=True,
        )
        for name in ("_tr_loss", "_globalstep_last_logged")
    ),
    *(
        Use(
            owner="transformers:Trainer",
            name=name,
            needed_for="checkpoints of the harness's own in place of the Trainer's",
            where=_TRAINER,
        )
        for name in (
            "_save_checkpoint",
            "_load_optimizer_and_scheduler",
            "_load_from_checkpoint",
            "_load_scaler",
            "_load_rng_state",
        )
    ),
    Use(
        owner="trl:SFTTrainer",
        name="_send_telemetry",
        needed_for="sending nothing about a run over the network",
        where="bench/training/engines/sft.py",
    ),
    Use(
        owner="accelerate.state:AcceleratorState",
        name="_reset_state",
        needed_for="a second training in one process, with a precision or a launch of its own",
        where=_ACCELERATE,
    ),
    Use(
        owner="accelerate.accelerator",
        name="_original_forward",
        needed_for="taking accelerate's autocast off a model's forward after training",
        where=_ACCELERATE,
        on_objects=True,
    ),
    Use(
        owner="accelerate.optimizer",
        name="_is_overflow",
        needed_for="telling accelerate of a step that a fused optimizer skipped for the sake of fp16's loss scale",
        where=_ACCELERATE,
        on_objects=True,
    ),
    Use(
        owner="accelerate:Accelerator",
        name="_local_tensor",
        needed_for="an address for empty shards, by which accelerate tells an optimiser's parameters apart",
        where=_TORCH,
        on_objects=True,
    ),
    Use(
        owner="transformers.core_model_loading",
        name="set_param_for_module",
        needed_for="cutting each weight down to this process's shard as it is read",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="transformers.trainer",
        name="deepspeed_load_checkpoint",
        needed_for="resuming from parts that each process has written, and not from DeepSpeed's own files",
        where=_TRANSFORMERS,
    ),
    Use(
        owner="deepspeed.runtime.zero.partition_parameters:Init",
        name="_zero_init_param",
        needed_for="gathering one parameter at a time when ZeRO-3 partitions a model of which processes hold shards",
        where=_DEEPSPEED,
    ),
    Use(
        owner="deepspeed.runtime.engine:DeepSpeedEngine",
        name="_broadcast_model",
        needed_for="not sending a model of which processes hold shards before it is partitioned",
        where=_DEEPSPEED,
    ),
    Use(
        owner="accelerate.utils.fsdp_utils",
        name="fsdp2_prepare_model",
        needed_for="sharding a model on the meta device by FSDP2 as accelerate does",
        where="bench/distributed/prepared_shards.py",
    ),
    Use(
        owner="bitsandbytes.nn:Params4bit",
        name="_quantize",
        needed_for="the shapes of 4-bit weights on the meta device, for memory plans",
        where=_BITSANDBYTES,
    ),
    Use(
        owner="evaluate:Metric",
        name="_compute",
        needed_for="the settings of a metric of the evaluate library, for its signature",
        where=_EVALUATE,
    ),
    Use(
        owner="evaluate:Metric",
        name="_enforce_nested_string_type",
        needed_for="metrics of written answers that take None for a missing answer",
        where="bench/metrics",
    ),
    Use(
        owner="lm_eval.models.huggingface:HFLM",
        name="_loglikelihood_tokens",
        needed_for="scoring labels by the harness's scorer in lm-evaluation-harness",
        where="bench/evaluation/lm_eval_model.py",
    ),
)
