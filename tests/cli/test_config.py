"""Flag, then environment variable, then TOML, then default; `--dry-run -o json` shows what counted."""

import json

import pytest


def planned(edgebench, *args, env=None):
    done = edgebench("run", "--dry-run", "-o", "json", *args, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pp_and_tg(rows):
    return next(row["what"] for row in rows if row["mode"] == "performance")


# flag, environment variable, TOML key, three values, how the plan shows the value, the default
CASES = {
    "n-prompt": ("-p", "EDGEBENCH_RUN_N_PROMPT", ("16", "32", "64"), lambda v: f"pp{v} tg128 chat64", "512"),
    "n-gen": ("-n", "EDGEBENCH_RUN_N_GEN", ("16", "32", "64"), lambda v: f"pp512 tg{v} chat64", "128"),
    "chat": ("--chat", "EDGEBENCH_RUN_CHAT", ("16", "32", "48"), lambda v: f"pp512 tg128 chat{v}", "64"),
}


@pytest.mark.parametrize("key", CASES)
def test_the_flag_wins_then_the_variable_then_the_file(edgebench, toy, tmp_path, key):
    flag, variable, (by_flag, by_variable, by_file), shown, default = CASES[key]
    model = ("-m", toy())
    assert pp_and_tg(planned(edgebench, *model)) == shown(default)
    (tmp_path / "edgebench.toml").write_text(f"[run]\n{key} = {by_file}\n")
    assert pp_and_tg(planned(edgebench, *model)) == shown(by_file)
    env = {variable: by_variable}
    assert pp_and_tg(planned(edgebench, *model, env=env)) == shown(by_variable)
    assert pp_and_tg(planned(edgebench, *model, flag, by_flag, env=env)) == shown(by_flag)


def test_lists_in_toml_are_the_flags_lists(edgebench, tmp_path):
    (tmp_path / "edgebench.toml").write_text(
        '[run]\nquant = ["q8_0", "q4_0"]\nn-prompt = [8, 16]\nmode = "both"\n'
    )
    rows = planned(edgebench)
    assert [row["level"] for row in rows if row["mode"] == "accuracy"] == ["q8_0", "q4_0"]
    assert pp_and_tg(rows) == "pp8 pp16 tg128 chat64"


def test_switches_in_toml_can_be_turned_off_by_a_flag(edgebench, toy, tmp_path):
    (tmp_path / "edgebench.toml").write_text("[run]\nnoise-floor = true\n")
    model = ("-m", toy(), "--mode", "accuracy")
    assert len(planned(edgebench, *model)) == 2
    assert len(planned(edgebench, *model, "--no-noise-floor")) == 1
    assert len(planned(edgebench, *model, env={"EDGEBENCH_RUN_NOISE_FLOOR": "0"})) == 1


def test_the_number_of_threads_is_recorded_from_wherever_it_came(edgebench, toy, rows, tmp_path):
    command = ("run", "-m", toy(), "--mode", "accuracy", "--limit", "8")
    (tmp_path / "edgebench.toml").write_text("[run]\nthreads = 3\n")
    assert edgebench(*command, "-t", "5", env={"EDGEBENCH_RUN_THREADS": "4"}).returncode == 0
    assert edgebench(*command, env={"EDGEBENCH_RUN_THREADS": "4"}).returncode == 0
    assert edgebench(*command).returncode == 0
    recorded = "SELECT json_extract(config_json, '$.settings.n_threads') AS n FROM run ORDER BY id"
    assert [r["n"] for r in rows(tmp_path / "edgebench.sqlite", recorded)] == [5, 4, 3]


def test_the_database_of_every_verb_can_be_named_once(edgebench, tmp_path):
    def path(*args, env=None):
        return edgebench("db", "path", *args, env=env).stdout.strip()

    assert path() == str(tmp_path / "edgebench.sqlite")
    (tmp_path / "edgebench.toml").write_text('db = "everywhere.sqlite"\n')
    assert path() == str(tmp_path / "everywhere.sqlite")
    (tmp_path / "edgebench.toml").write_text('db = "everywhere.sqlite"\n[runs.list]\ndb = "here.sqlite"\n')
    assert path() == str(tmp_path / "everywhere.sqlite")
    assert "no database at here.sqlite" in edgebench("runs", "list").stderr
    assert path(env={"EDGEBENCH_DB": "variable.sqlite"}) == str(tmp_path / "variable.sqlite")
    assert path("--db", "flag.sqlite", env={"EDGEBENCH_DB": "variable.sqlite"}) == str(
        tmp_path / "flag.sqlite"
    )
    assert "variable.sqlite" in edgebench("runs", "list", env={"EDGEBENCH_DB": "variable.sqlite"}).stderr


def test_another_configuration_can_be_named(edgebench, tmp_path):
    (tmp_path / "edgebench.toml").write_text('db = "default.sqlite"\n')
    (tmp_path / "other.toml").write_text('db = "other.sqlite"\n')
    assert edgebench("--config", "other.toml", "db", "path").stdout.strip().endswith("other.sqlite")
    done = edgebench("db", "path", env={"EDGEBENCH_CONFIG": "other.toml"})
    assert done.stdout.strip().endswith("other.sqlite")


def test_the_users_own_configuration_counts_where_the_folder_has_none(edgebench, tmp_path):
    own = tmp_path / "home" / "edgebench"
    own.mkdir(parents=True)
    (own / "edgebench.toml").write_text('db = "own.sqlite"\n')
    env = {"XDG_CONFIG_HOME": str(own.parent)}
    assert edgebench("db", "path", env=env).stdout.strip().endswith("own.sqlite")
    (tmp_path / "edgebench.toml").write_text('db = "folder.sqlite"\n')
    assert edgebench("db", "path", env=env).stdout.strip().endswith("folder.sqlite")


def test_output_can_be_set_for_all_verbs(edgebench, tmp_path):
    (tmp_path / "edgebench.toml").write_text('output = "json"\n')
    assert json.loads(edgebench("suites", "list").stdout)
    assert json.loads(edgebench("runners", "list").stdout)


def test_a_dry_run_measures_nothing_and_makes_no_database(edgebench, toy, tmp_path):
    rows = planned(edgebench, "-m", toy())
    assert {(r["mode"], r["n_stored"]) for r in rows} == {("performance", 0), ("accuracy", 0)}
    assert not (tmp_path / "edgebench.sqlite").exists()


def test_a_dry_run_tells_what_is_stored_already(edgebench, toy):
    model = ("-m", toy(), "--mode", "accuracy")
    assert edgebench("run", *model, "--limit", "8").returncode == 0
    (row,) = planned(edgebench, *model)
    assert (row["n_total"], row["n_stored"], row["n_todo"]) == (136, 8, 128)


@pytest.mark.parametrize(
    ("text", "tests"),
    [("1-3", "pp1 pp2 pp3"), ("1-8+3", "pp1 pp4 pp7"), ("1-8*2", "pp1 pp2 pp4 pp8"), ("7, 5", "pp7 pp5")],
)
def test_numbers_are_spelled_as_llama_bench_spells_them(edgebench, toy, text, tests):
    assert pp_and_tg(planned(edgebench, "-m", toy(), "-p", text, "-n", "0", "--chat", "0")) == tests
