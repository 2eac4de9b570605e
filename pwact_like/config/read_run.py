"""Reads param.json of ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pwact_like.config.common import StageInput, SysConfig
from pwact_like.config.engines_known import canonical, needs_command, unknown_engine_cure
from pwact_like.config.examine import Probes, examine_run
from pwact_like.config.inline import stage_names, takes_options
from pwact_like.config.input_files import check_stage_input
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.pieces import ResourceView, campaign_name
from pwact_like.config.read_lammps import read_lammps
from pwact_like.config.read_train import read_train
from pwact_like.config.reader import Reader, describe
from pwact_like.config.run import DEFAULT_QUOTA, Convergence, Dft, Explore, MdJob, RunParam, Strategy
from pwact_like.config.sections import (
    listed,
    model_keys,
    read_data_paths,
    read_dft_style,
    read_labelling,
    read_options,
    stage_from_table,
)
from pwact_like.config.source import Pairs, Table
from pwact_like.config.train import KPU_FILE, UNCERTAINTY_FILE, TrainSettings

MANY_IN_A_SCRIPT = 50
HIGH_LEVEL_EV_PER_ANG = 10.0
LONG_TIME_CONSTANT_PS = 10.0
_DEVIATION_LEVELS = ("lower_model_devi_f", "upper_model_devi_f")
_KPU_LEVELS = ("kpu_lower", "kpu_upper")
_KPU_KEYS = ("kpu_posterior", "kpu_samples", "kpu_tau", "kpu_keep_covariance", "valid_share")
_LMPS_OWNED = ("nsteps", "md_dt", "ensemble", "temps", "press", "taut", "taup", "neigh_modify", "boundary")


def read_run(reader: Reader, table: Table, resources: ResourceView, source: Path, probes: Probes | None = None) -> RunParam | None:
    """Read param.json of ``run``; every problem goes to the reader. With probes, structures and data are looked into."""
    given: dict[str, Any] = {"work_dir": reader.base, "campaign": campaign_name(table, reader.base), "source": source}
    failed: set[str] = set()
    for key in ("init_data", "valid_data", "test_data"):
        if table.get(key) is not None:
            _put(given, failed, key, read_data_paths(reader, table.get(key), table.where(key)))
    if table.get("init_model_list") is not None:
        models = tuple(
            reader.path(item, place, what="model") for item, place in listed(table.get("init_model_list"), table.where("init_model_list"))
        )
        _put(given, failed, "init_model_list", None if None in models else models)

    train = _train(reader, table, resources)
    _put(given, failed, "train", train)
    strategy_table = (
        reader.table(table.get("strategy"), table.where("strategy")) if table.get("strategy") is not None else Table("strategy", {})
    )
    strategy = _strategy(reader, strategy_table) if strategy_table else None
    _put(given, failed, "strategy", strategy)
    configs: list[tuple[SysConfig, str]] = []
    if table.get("explore") is None:
        reader.problem("explore", "this key is required: what is explored")
        failed.add("explore")
    else:
        section = reader.table(table.get("explore"), table.where("explore"))
        _put(given, failed, "explore", _explore(reader, section, resources, configs, train) if section else None)
    pseudo_path = "DFT.pseudo"
    if table.get("dft") is None:
        reader.problem("DFT", "this key is required: how candidates are labelled")
        failed.add("dft")
    else:
        section = reader.table(table.get("dft"), table.where("dft"))
        _put(given, failed, "dft", _dft(reader, section, resources, source) if section else None)
        pseudo_path = section.where("pseudo") if section else pseudo_path
    param = reader.build(RunParam, table, given=given, failed=failed, handled=("train_input_file",))
    if param is not None:
        _note_long_script(reader, table.where("DFT"), param)
    _cross_checks(reader, table, given, strategy, train)
    if probes is not None and reader.base_exists:
        examine_run(reader, probes, given, configs, pseudo_path)
    return param


def _put(given: dict[str, Any], failed: set[str], key: str, value: Any) -> None:
    if value is None:
        failed.add(key)
    else:
        given[key] = value


def _train(reader: Reader, table: Table, resources: ResourceView) -> TrainSettings | None:
    value = table.get("train")
    if value is None and table.get("train_input_file") is not None:
        value = Pairs(())
    if value is None:
        reader.problem("train", "this key is required: the training settings", 'give them here, or "train_input_file"')
        return None
    section = reader.table(value, table.where("train"))
    if section is None:
        return None
    if "train_input_file" in table and "train_input_file" not in section:
        section = Table(section.path, {**section.entries, "train_input_file": table.entries["train_input_file"]})
    settings = read_train(reader, section, engine=resources.engine("train", "train"))
    if settings is not None and settings.init_model is not None:
        reader.note(section.where("init_model"), "without effect in a campaign: init_model_list names the models to begin with")
    if settings is not None and settings.uncertainty is not None:
        reader.note(section.where("uncertainty"), "without effect in a campaign: strategy.uncertainty and strategy.kpu_… say it")
    if settings is not None and needs_command("train", settings.engine):
        resources.require_command("train", needs_command("train", settings.engine))
    return settings


def _strategy(reader: Reader, table: Table) -> Strategy | None:
    given: dict[str, Any] = {}
    failed: set[str] = set()
    if table.get("convergence") is not None:
        inner = reader.table(table.get("convergence"), table.where("convergence"))
        _put(given, failed, "convergence", reader.build(Convergence, inner) if inner else None)
    if table.get("direct_script") is not None:
        _put(given, failed, "direct_script", reader.path(table.get("direct_script"), table.where("direct_script"), what="script"))
    strategy = reader.build(Strategy, table, given=given, failed=failed)
    if strategy is not None:
        _level_notes(reader, table, strategy)
        _choice_notes(reader, table, strategy)
    return strategy


def _choice_notes(reader: Reader, table: Table, strategy: Strategy) -> None:
    """Keys of a choice that is not asked for."""
    how = strategy.chosen_by
    if strategy.direct_script is not None and how != "script":
        reader.note(table.where("direct_script"), "without effect: direct is false")
    idle = ("choice_descriptor", "choice_num") if how == "random" else ("choice_descriptor",) if how == "script" else ()
    for key in idle:
        if table.get(key) is not None:
            why = "candidates are drawn at random (choice, direct)" if how == "random" else "direct_script chooses"
            reader.note(table.where(key), f"without effect: {why}")
    if how == "script" and strategy.choice_num is not None:
        reader.note(
            table.where("choice_num"), "the script itself says how many it chooses; no more than max_select allows are offered to it"
        )


def _level_notes(reader: Reader, table: Table, strategy: Strategy) -> None:
    """What the user's levels mean, and which have no effect."""

    def place(key: str) -> str:
        spelled = [alias for alias, name in Strategy.aliases.items() if name == key and alias in table]
        return table.where(next(iter(spelled), key))

    given = {Strategy.aliases.get(key, key) for key, (_, value) in table.entries.items() if value is not None}
    kind, (lower, upper) = strategy.uncertainty, strategy.given_levels
    own = _KPU_LEVELS if kind == "kpu" else _DEVIATION_LEVELS
    others = _DEVIATION_LEVELS if kind == "kpu" else _KPU_LEVELS if kind == "kpu-committee" else (*_KPU_LEVELS, *_KPU_KEYS)
    if kind == "kpu-committee":
        others = (*others, "kpu_samples")
    for key in others:
        if key in given:
            reader.note(place(key), f"without effect: strategy.uncertainty is {kind}")
    if strategy.is_relative:
        if (reach := (lower or 0.0) * (upper or 0.0)) <= 1.0:
            reader.note(
                place("kpu_upper"),
                f"the upper level is kpu_lower·kpu_upper = {reach:g} times the KPU of the run's own first frames, so these are failed "
                "already (PWact's defaults do this): a product above 1 leaves candidates",
            )
        return
    if kind == "kpu":
        for key in own:
            if key in given:
                reader.note(place(key), 'taken as eV/Å; PWact\'s factors of the first frames\' KPU are "kpu_scale": "relative"')
    if upper is not None and upper > HIGH_LEVEL_EV_PER_ANG:
        reader.note(place(own[1]), f"{upper:g} eV/Å is far above usual levels (0.1 to 2): is it meant in meV/Å?")


def _explore(
    reader: Reader, table: Table, resources: ResourceView, seen: list[tuple[SysConfig, str]], train: TrainSettings | None
) -> Explore | None:
    given: dict[str, Any] = {}
    failed: set[str] = set()
    engine = _explore_engine(reader, table, resources)
    _put(given, failed, "engine", engine or None)
    prefixes = {}
    for key in ("sys_config_prefix", "lmps_prefix"):
        prefix = table.get(key, "")
        prefixes[key] = prefix if isinstance(prefix, str) else ""

    count = None
    if table.get("sys_configs") is not None:
        places = list(listed(table.get("sys_configs"), table.where("sys_configs")))
        configs = [_sys_config(reader, item, place, prefixes["sys_config_prefix"]) for item, place in places]
        seen.extend((config, place) for config, (_, place) in zip(configs, places, strict=True) if config is not None)
        count = len(configs)
        if not configs:
            reader.problem(table.where("sys_configs"), "no structure is named")
        _put(given, failed, "sys_configs", None if None in configs or not configs else tuple(configs))
    inputs = [_prefixed(item, prefixes["lmps_prefix"]) for item, _ in listed(table.get("lmps_in", []), "")]
    if inputs:
        where = table.where("lmps_in")
        single = not isinstance(table.get("lmps_in"), list)
        files = [reader.path(item, where if single else f"{where}[{index}]", what="LAMMPS input") for index, item in enumerate(inputs)]
        _put(given, failed, "lmps_in", None if None in files else tuple(files))
    if table.get("md_jobs") is not None:
        _put(given, failed, "md_jobs", _md_jobs(reader, table.get("md_jobs"), table.where("md_jobs"), count, len(inputs), engine))
    if train is not None:
        given["elements"] = train.atom_type
    section = resources.section("explore")
    read_lammps(reader, table, (engine, section.command if section is not None else ""), train, given, failed)
    if table.get("md_batch") is not None and engine != "embedded":
        reader.note(table.where("md_batch"), f"without effect: the exploration runs with {engine or 'another engine'}")
    return reader.build(Explore, table, given=given, failed=failed, handled=("engine",))


def _explore_engine(reader: Reader, table: Table, resources: ResourceView) -> str:
    named = table.get("engine")
    if named is None:
        engine = resources.engine("explore", "explore")
    else:
        engine = canonical("explore", named) if isinstance(named, str) else ""
        if not engine:
            reader.problem(table.where("engine"), f"{describe(named)} is no MD engine", unknown_engine_cure("explore", named))
    if needs_command("explore", engine):
        resources.require_command("explore", needs_command("explore", engine))
    return engine


def _prefixed(name: Any, prefix: str) -> Any:
    return str(Path(prefix) / name) if isinstance(name, str) and prefix else name


def _sys_config(reader: Reader, value: Any, path: str, prefix: str) -> SysConfig | None:
    if isinstance(value, Pairs):
        table = reader.table(value, path)
        if table is None:
            return None
        name, where = table.get("config"), table.where("config")
    else:
        table, name, where = Table(path, {"config": (path, value)}), value, path
    if name is not None and not (isinstance(name, str) and name.strip()):
        reader.problem(where, f"a path in quotes is wanted here, not {describe(name)}")
        return None
    files = reader.matches(_prefixed(name, prefix), where) if name else None
    given = {"files": files} if files else {}
    return reader.build(SysConfig, table, given=given, failed=() if files else {"files"})


def _md_jobs(reader: Reader, value: Any, path: str, systems: int | None, inputs: int, engine: str) -> tuple[tuple[MdJob, ...], ...] | None:
    """One entry an iteration; a single object counts as one entry."""
    entries = []
    good = True
    for item, place in listed(value, path):
        jobs = [_md_job(reader, job, where, systems, inputs, engine) for job, where in listed(item, place)]
        if not jobs:
            reader.problem(place, "an empty entry: nothing would be explored", "remove it or fill it")
            good = False
        good = good and None not in jobs
        entries.append(tuple(job for job in jobs if job is not None))
    if not entries:
        reader.problem(path, "no entry: nothing would be explored")
        return None
    return tuple(entries) if good else None


def _md_job(reader: Reader, value: Any, path: str, systems: int | None, inputs: int, engine: str) -> MdJob | None:
    table = reader.table(value, path)
    job = reader.build(MdJob, table) if table else None
    if table is None:
        return None
    good = True
    for key, count, what in (("sys_idx", systems, "sys_configs"), ("lmps_in_idx", inputs, "lmps_in")):
        # from the user's own value: the range is worth telling even when another key of the job is wrong
        indices = [value for value, _ in listed(table.get(key, []), "") if isinstance(value, int)]
        out = sorted({index for index in indices if count is not None and index >= count})
        if out:
            reader.problem(table.where(key), f"{', '.join(map(str, out))} is out of range: {what} has {count} entries, counted from 0")
            good = False
    if job is None:
        return None
    if job.lmps_in_idx:
        idle = [table.where(key).rpartition(".")[2] for key in _LMPS_OWNED if table.get(key) is not None]
        if idle:
            reader.note(path, f"{', '.join(idle)} without effect: the LAMMPS input of lmps_in_idx holds them")
    else:
        for key in ("taut", "taup"):
            if key in table and getattr(job, key) > LONG_TIME_CONSTANT_PS:
                reader.note(
                    table.where(key), f"it is in ps, and {getattr(job, key):g} ps are a very long time constant: is it meant in fs?"
                )
        if not job.ensemble.startswith("npt") and table.get("press") is not None:
            reader.note(table.where("press"), f"without effect: {job.ensemble} has no barostat")
        if engine == "embedded" and table.get("neigh_modify") is not None:
            reader.note(table.where("neigh_modify"), "without effect: the embedded MD watches the atoms' moves itself")
        if job.nsteps is not None and job.trj_freq > job.nsteps:
            reader.note(table.where("trj_freq"), f"{job.trj_freq} exceeds nsteps {job.nsteps}: only the first frame is kept")
    return job if good else None


def _dft(reader: Reader, table: Table, resources: ResourceView, source: Path) -> Dft | None:
    style, engine = read_dft_style(reader, table)
    inline = takes_options(engine)
    label_keys = model_keys(LabelSettings)
    entry_keys = model_keys(StageInput) - {"options"}
    options, taken = read_options(reader, table, engine, stage_names(engine, "scf"))
    for key, (place, _) in table.entries.items():
        if key not in label_keys | entry_keys | taken and engine:
            reader.unknown(LabelSettings, place, key, label_keys | entry_keys | stage_names(engine, "scf"), train_rule=False)
    if engine == "bigmodel" and table.get("bigmodel_script") is None and "model" not in options and table.get("input") is None:
        cure = 'give "model", e.g. "chgnet"; or "bigmodel_script", a script that reads select.xyz and leaves train.xyz'
        reader.problem(table.where("model"), "the big model is not named", cure)
    labelling = read_labelling(reader, table, source, style=style, engine=engine, options=options)
    required = bool(engine) and not inline
    entry = stage_from_table(reader, table.only(entry_keys), options={}, taken=(), required=required)
    if entry is not None:
        check_stage_input(reader, table.where("input"), engine, "scf", entry, labelling)
    if needs_command("label", engine):
        resources.require_command("dft", needs_command("label", engine))
    return Dft(labelling=labelling, entry=entry) if labelling is not None and entry is not None else None


def _note_long_script(reader: Reader, path: str, param: RunParam) -> None:
    """A labelling script has no checkpoint: tell how much one call may have to do."""
    if param.dft.labelling.bigmodel_script is None:
        return
    most = 0
    for entry in param.explore.md_jobs:
        quotas = [(job.select_sys or (param.strategy.max_select,), job.sys_idx) for job in entry]
        files = [
            (given[0] if len(given) == 1 else given[place], len(param.explore.sys_configs[index].files))
            for given, indices in quotas
            for place, index in enumerate(indices)
        ]
        most = max(most, sum((DEFAULT_QUOTA if quota is None else quota) * count for quota, count in files))
    if param.strategy.choice_num is not None and param.strategy.chosen_by != "random":
        most = min(most, param.strategy.choice_num)
    if most > MANY_IN_A_SCRIPT:
        reader.note(
            f"{path}.bigmodel_script",
            f"one call of {param.dft.labelling.bigmodel_script.name} labels all structures of an iteration, {most} at most, and begins "
            "anew where its job is cut off: give it the time for them, or lower max_select; a model that is named (model, in place of the "
            "script) goes on where it was",
        )


def _cross_checks(reader: Reader, table: Table, given: dict[str, Any], strategy: Strategy | None, train: TrainSettings | None) -> None:
    """Problems that need two sections."""
    if not table.get("init_data") and not table.get("init_model_list"):
        reader.problem(
            table.where("init_data"),
            "nothing to begin with: neither init_data nor init_model_list is given",
            "init_bulk makes labelled data",
        )
    models = given.get("init_model_list", ())
    if strategy is not None and models and len(models) != strategy.trained_models:
        wanted = (
            f"model_num {strategy.model_num}" if strategy.uncertainty == "committee" else f"{strategy.uncertainty}, which trains one model"
        )
        reader.problem(table.where("init_model_list"), f"{len(models)} models for {wanted}", f"give {strategy.trained_models}")
    if strategy is None or strategy.uncertainty == "committee":
        return
    kind = strategy.uncertainty
    if train is not None and train.model_type != "DP":
        reader.problem("strategy.uncertainty", f"{kind} needs model_type DP, not {train.model_type}")
    if train is not None and strategy.kpu_posterior == "filter" and train.optimizer.name != "LKF":
        reader.problem(
            "strategy.kpu_posterior", f"filter is the covariance of the optimizer LKF, not of {train.optimizer.name}", "use laplace, or LKF"
        )
    if not table.get("valid_data") and table.get("init_data"):
        reader.note(
            table.where("valid_data"),
            f"left out: {strategy.valid_share:.0%} of init_data (2 frames at least) are not trained on, and tell how wrong the models are",
        )
    if strategy.compress:
        reader.problem("strategy.compress", f"{kind} and compress exclude each other")
    if train is not None and train.engine == "embedded":
        for model in models:
            missing = [name for name in (KPU_FILE, UNCERTAINTY_FILE) if not model.with_name(name).is_file()]
            if missing:
                reader.problem(
                    table.where("init_model_list"),
                    f"{' and '.join(missing)} missing beside {model}: nothing is known of this model's errors",
                    "give a model in the folder of its training, which had uncertainty in its settings; or leave init_model_list out",
                )
