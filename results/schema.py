"""The database's tables, as numbered migrations counted by `PRAGMA user_version`."""

import sqlite3
from pathlib import Path

from edgebench.core.errors import StoreError

_MODEL = """CREATE TABLE model (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, family TEXT, n_params INTEGER, source TEXT NOT NULL,
  revision TEXT, license TEXT
) STRICT"""

_ARTIFACT = """CREATE TABLE artifact (
  id TEXT PRIMARY KEY, -- sha256 of the file
  model_id TEXT NOT NULL REFERENCES model(id),
  parent_id TEXT REFERENCES artifact(id), -- NULL too when the parent is not in this database
  format TEXT NOT NULL, quant TEXT NOT NULL, bits_per_weight REAL, size_bytes INTEGER NOT NULL,
  calibration_sha256 TEXT, tool TEXT NOT NULL, tool_version TEXT NOT NULL, created_at TEXT NOT NULL,
  n_params INTEGER, parent_quant TEXT, manifest_json TEXT
) STRICT"""

_DEVICE = """CREATE TABLE device (
  id TEXT PRIMARY KEY, -- 'pixel8'
  name TEXT NOT NULL, kind TEXT NOT NULL, soc TEXT, memory_bytes INTEGER,
  profile_sha256 TEXT NOT NULL, profile_json TEXT NOT NULL
) STRICT"""

_ENVIRONMENT = """CREATE TABLE environment (
  id TEXT PRIMARY KEY, -- hash of the facts
  os TEXT NOT NULL, kernel TEXT, cpu TEXT, governor TEXT,
  on_battery INTEGER CHECK (on_battery IN (0,1)), facts_json TEXT NOT NULL
) STRICT"""

_SUITE = """CREATE TABLE suite (
  id TEXT PRIMARY KEY, -- 'mobile-mmlu@1'
  name TEXT NOT NULL, version TEXT NOT NULL, sha256 TEXT NOT NULL, n_questions INTEGER NOT NULL, license TEXT,
  medical INTEGER NOT NULL DEFAULT 0 CHECK (medical IN (0,1)) -- its pages carry the safety note
) STRICT"""

# The text is not stored: licences, contamination.
_QUESTION = """CREATE TABLE question (
  suite_id TEXT NOT NULL REFERENCES suite(id), id TEXT NOT NULL, subject TEXT, n_choices INTEGER,
  answer_index INTEGER, sha256 TEXT NOT NULL, -- of text and choices
  PRIMARY KEY (suite_id, id)
) STRICT, WITHOUT ROWID"""

_RUN = """CREATE TABLE run (
  id TEXT PRIMARY KEY, -- ULID
  mode TEXT NOT NULL CHECK (mode IN ('performance','accuracy')),
  status TEXT NOT NULL CHECK (status IN ('running','complete','interrupted','failed','invalid')),
  invalid_reason TEXT, -- why it is interrupted, failed or invalid
  evidence TEXT NOT NULL CHECK (evidence IN ('measured','replayed','modelled','synthetic')),
  artifact_id TEXT NOT NULL REFERENCES artifact(id), device_id TEXT NOT NULL REFERENCES device(id),
  environment_id TEXT NOT NULL REFERENCES environment(id), suite_id TEXT REFERENCES suite(id),
  runner TEXT NOT NULL, runner_version TEXT NOT NULL,
  config_sha256 TEXT NOT NULL, config_json TEXT NOT NULL, -- the hash is the plan's key
  seed INTEGER NOT NULL, started_at TEXT NOT NULL, finished_at TEXT, edgebench_version TEXT NOT NULL,
  git_commit TEXT, git_dirty INTEGER,
  scorer TEXT, scheme_sha256 TEXT, -- the groups that questions were scored in
  timing_source TEXT NOT NULL DEFAULT 'host', engine_json TEXT -- what the engine says of itself
) STRICT"""

_TRIAL = """CREATE TABLE trial (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE,
  test TEXT NOT NULL, -- 'pp512+tg128@d4096'
  phase TEXT NOT NULL CHECK (phase IN ('warmup','measured')),
  round_index INTEGER NOT NULL DEFAULT 0, -- which visit of the level
  process_index INTEGER NOT NULL DEFAULT 0, repetition INTEGER NOT NULL,
  n_prompt INTEGER NOT NULL, n_gen INTEGER NOT NULL, n_depth INTEGER NOT NULL DEFAULT 0,
  started_s REAL NOT NULL, load_s REAL, prefill_s REAL, ttft_s REAL, decode_s REAL, total_s REAL NOT NULL,
  energy_j REAL, energy_idle_j REAL, energy_resolution_j REAL, energy_source TEXT,
  energy_scope TEXT, energy_method TEXT, energy_u95_j REAL, energy_reason TEXT, energy_evidence TEXT,
  peak_rss_bytes INTEGER, peak_rss_anon_bytes INTEGER, peak_rss_file_bytes INTEGER, peak_vram_bytes INTEGER,
  temperature_start_c REAL, temperature_end_c REAL, throttled INTEGER CHECK (throttled IN (0,1)),
  foreign_cpu_s REAL, -- CPU time of other processes meanwhile
  canary_before_s REAL, canary_after_s REAL, -- how long a fixed spin took
  flags_json TEXT NOT NULL DEFAULT '[]', -- '["noisy_neighbour","unstable_host"]'
  UNIQUE (run_id, test, process_index, phase, repetition)
) STRICT"""

_TIMES = """CREATE TABLE token_time (
  trial_id INTEGER NOT NULL REFERENCES trial(id) ON DELETE CASCADE, i INTEGER NOT NULL, t_s REAL NOT NULL,
  PRIMARY KEY (trial_id, i)
) STRICT, WITHOUT ROWID"""

_READING = """CREATE TABLE reading (
  run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE, channel TEXT NOT NULL, unit TEXT NOT NULL,
  t_s REAL NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (run_id, channel, t_s)
) STRICT, WITHOUT ROWID"""

_ANSWER = """CREATE TABLE answer (
  run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE, question_id TEXT NOT NULL,
  repeat INTEGER NOT NULL DEFAULT 0, choice_index INTEGER, choice_norm_index INTEGER,
  correct INTEGER NOT NULL CHECK (correct IN (0,1)), correct_norm INTEGER CHECK (correct_norm IN (0,1)),
  logprobs_json TEXT, output_text TEXT, n_prompt INTEGER, n_gen INTEGER, ttft_s REAL, total_s REAL,
  group_sha256 TEXT, -- the questions it shared a batch with
  PRIMARY KEY (run_id, question_id, repeat)
) STRICT, WITHOUT ROWID"""

_SUMMARY = """CREATE TABLE summary (
  run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE, test TEXT NOT NULL, metric TEXT NOT NULL,
  statistic TEXT NOT NULL, value REAL NOT NULL, ci_low REAL, ci_high REAL, n INTEGER NOT NULL,
  PRIMARY KEY (run_id, test, metric, statistic)
) STRICT, WITHOUT ROWID"""

_PAIRED_ANSWER = """CREATE VIEW paired_answer AS
  SELECT a.run_id AS run_a, b.run_id AS run_b, a.question_id, a.correct AS correct_a, b.correct AS correct_b
  FROM answer a JOIN answer b USING (question_id, repeat)
  JOIN run ra ON ra.id = a.run_id
  JOIN run rb ON rb.id = b.run_id AND ra.suite_id = rb.suite_id AND a.run_id <> b.run_id"""

_M001 = (
    _MODEL,
    _ARTIFACT,
    _DEVICE,
    _ENVIRONMENT,
    _SUITE,
    _QUESTION,
    _RUN,
    "CREATE INDEX run_by_plan ON run (config_sha256, artifact_id, device_id, status)",  # resume looks here
    _TRIAL,
    _TIMES,
    _READING,
    _ANSWER,
    _SUMMARY,
    _PAIRED_ANSWER,
)

# How far an artifact is from the reference it was made from. Nothing here is timed: a device has no say.
_CHECK_RUN = """CREATE TABLE check_run (
  id TEXT PRIMARY KEY, -- ULID
  artifact_id TEXT NOT NULL REFERENCES artifact(id),
  reference_id TEXT NOT NULL REFERENCES artifact(id), -- the same: the reference's own noise
  key_sha256 TEXT NOT NULL UNIQUE, -- of everything that decides the rows
  status TEXT NOT NULL CHECK (status IN ('running','complete','failed')),
  reason TEXT, -- why it failed
  evidence TEXT NOT NULL CHECK (evidence IN ('measured','replayed','modelled','synthetic')),
  runner TEXT NOT NULL, runner_version TEXT NOT NULL, config_json TEXT NOT NULL,
  text_sha256 TEXT NOT NULL, n_chunks INTEGER NOT NULL,
  started_at TEXT NOT NULL, finished_at TEXT, edgebench_version TEXT NOT NULL
) STRICT"""

# One row per predicted token; its text is not stored. Natural logarithms.
_CHECK_PREDICTION = """CREATE TABLE check_token (
  check_id TEXT NOT NULL REFERENCES check_run(id) ON DELETE CASCADE, i INTEGER NOT NULL,
  chunk_index INTEGER NOT NULL, nll_nats REAL NOT NULL, nll_parent_nats REAL NOT NULL,
  kld_nats REAL NOT NULL, -- KL(parent || artifact)
  same_top INTEGER NOT NULL CHECK (same_top IN (0,1)), max_logprob_diff_nats REAL NOT NULL,
  PRIMARY KEY (check_id, i)
) STRICT, WITHOUT ROWID"""

_CHECK_GREEDY = """CREATE TABLE check_greedy (
  check_id TEXT NOT NULL REFERENCES check_run(id) ON DELETE CASCADE, prompt_index INTEGER NOT NULL,
  n_same INTEGER NOT NULL, n_tokens INTEGER NOT NULL, -- of the reference's greedy continuation
  PRIMARY KEY (check_id, prompt_index)
) STRICT, WITHOUT ROWID"""

_CHECK_ANSWER = """CREATE TABLE check_answer (
  check_id TEXT NOT NULL REFERENCES check_run(id) ON DELETE CASCADE,
  shape TEXT NOT NULL CHECK (shape IN ('grouped','alone')), question_id TEXT NOT NULL,
  choice_index INTEGER NOT NULL, correct INTEGER NOT NULL CHECK (correct IN (0,1)),
  PRIMARY KEY (check_id, shape, question_id)
) STRICT, WITHOUT ROWID"""

_M002 = (
    _CHECK_RUN,
    "CREATE INDEX check_by_artifact ON check_run (reference_id, artifact_id, status)",
    _CHECK_PREDICTION,
    _CHECK_GREEDY,
    _CHECK_ANSWER,
)

# Suites without a public key have answers that are neither right nor wrong: `correct` may be NULL. SQLite
# can't loosen a column, so the table is made anew.
_ANSWER_3 = """CREATE TABLE answer_3 (
  run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE, question_id TEXT NOT NULL,
  repeat INTEGER NOT NULL DEFAULT 0, -- the rotation: place j showed option (j + repeat) mod n_choices
  choice_index INTEGER, -- as the suite stores its options; NULL: no answer could be read off
  choice_norm_index INTEGER, choice_bytes_index INTEGER,
  correct INTEGER CHECK (correct IN (0,1)), -- NULL: the suite has no key
  correct_norm INTEGER CHECK (correct_norm IN (0,1)), correct_bytes INTEGER CHECK (correct_bytes IN (0,1)),
  logprobs_json TEXT, -- one per option, as the suite stores them
  output_text TEXT, extraction_rule TEXT, -- of `generate`: what was written, and the rule that read it
  n_prompt INTEGER, n_cut INTEGER NOT NULL DEFAULT 0, -- tokens lost from the left: the prompt was too long
  n_shots INTEGER NOT NULL DEFAULT 0, n_gen INTEGER, ttft_s REAL, total_s REAL,
  group_sha256 TEXT, -- the questions it shared a batch with
  PRIMARY KEY (run_id, question_id, repeat)
) STRICT, WITHOUT ROWID"""

_M003 = (
    "DROP VIEW paired_answer",
    _ANSWER_3,
    """INSERT INTO answer_3 (run_id, question_id, repeat, choice_index, choice_norm_index, correct,
         correct_norm, logprobs_json, output_text, n_prompt, n_gen, ttft_s, total_s, group_sha256)
       SELECT run_id, question_id, repeat, choice_index, choice_norm_index, correct,
         correct_norm, logprobs_json, output_text, n_prompt, n_gen, ttft_s, total_s, group_sha256
       FROM answer""",
    "DROP TABLE answer",
    "ALTER TABLE answer_3 RENAME TO answer",
    _PAIRED_ANSWER,
    # Categories, slices, the headline figure, the label that must stand beside scores.
    "ALTER TABLE suite ADD COLUMN facts_json TEXT NOT NULL DEFAULT '{}'",
)

# One row per meter and stretch of time: a test with its repetitions, an idle baseline, a process's answers.
_ENERGY_WINDOW = """CREATE TABLE energy_window (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('test','answers','idle_before','loaded_idle','idle_after')),
  test TEXT NOT NULL, -- '*' of windows that belong to no single test
  round_index INTEGER NOT NULL DEFAULT 0, process_index INTEGER NOT NULL DEFAULT 0,
  start_s REAL NOT NULL, end_s REAL NOT NULL, -- since the run began
  busy_s REAL, -- of it, inside repetitions
  n_requests INTEGER NOT NULL DEFAULT 0, n_prompt INTEGER NOT NULL DEFAULT 0,
  n_gen INTEGER NOT NULL DEFAULT 0, n_questions INTEGER NOT NULL DEFAULT 0,
  source TEXT, scope TEXT, method TEXT, headline INTEGER NOT NULL DEFAULT 0 CHECK (headline IN (0,1)),
  energy_j REAL, energy_u95_j REAL, energy_resolution_j REAL, energy_reason TEXT, energy_detail TEXT,
  energy_modelled_j REAL, energy_model TEXT, -- only when asked for; never ranks
  n_samples INTEGER NOT NULL DEFAULT 0, evidence TEXT, flags_json TEXT NOT NULL DEFAULT '[]'
) STRICT"""

# What the device can do at most, measured once: speeds are shown as a share of it.
_DEVICE_LIMIT = """CREATE TABLE device_limit (
  device_id TEXT NOT NULL REFERENCES device(id), environment_id TEXT NOT NULL REFERENCES environment(id),
  n_threads INTEGER NOT NULL, facts_json TEXT NOT NULL, evidence TEXT NOT NULL, measured_at TEXT NOT NULL,
  PRIMARY KEY (device_id, environment_id, n_threads)
) STRICT, WITHOUT ROWID"""

# Said before the run; what came of it stands in the summary.
_PREDICTION = """CREATE TABLE prediction (
  run_id TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE, test TEXT NOT NULL, metric TEXT NOT NULL,
  value REAL NOT NULL, ci_low REAL, ci_high REAL, basis TEXT NOT NULL,
  PRIMARY KEY (run_id, test, metric)
) STRICT, WITHOUT ROWID"""

_M004 = (
    _ENERGY_WINDOW,
    "CREATE INDEX energy_window_by_run ON energy_window (run_id, kind, test)",
    _DEVICE_LIMIT,
    _PREDICTION,
    "ALTER TABLE run ADD COLUMN command TEXT",  # that asks for the same again
    "ALTER TABLE run ADD COLUMN flags_json TEXT NOT NULL DEFAULT '[]'",  # of the whole run: not_steady, …
    "ALTER TABLE run ADD COLUMN baseline_rss_bytes INTEGER",  # the measuring process before it has a model
    "ALTER TABLE run ADD COLUMN anchor_id TEXT",  # the run that was measured between the others' visits
    "ALTER TABLE run ADD COLUMN meters_json TEXT",  # what was there to measure energy with, or why nothing
    "ALTER TABLE artifact ADD COLUMN shape_json TEXT",  # weights by type, layers, heads
    "ALTER TABLE trial ADD COLUMN engine_s REAL",  # of total_s, inside engine calls; the rest is ours
    "ALTER TABLE trial ADD COLUMN load_cached_share REAL",  # of the file, in memory before it was loaded
    "ALTER TABLE trial ADD COLUMN pss_bytes INTEGER",
    "ALTER TABLE trial ADD COLUMN swap_bytes INTEGER",  # grown meanwhile
    "ALTER TABLE trial ADD COLUMN n_major_faults INTEGER",  # pages read from the disk meanwhile
    "ALTER TABLE trial ADD COLUMN kv_cache_bytes INTEGER",  # as the engine says
    "ALTER TABLE trial ADD COLUMN kv_cache_predicted_bytes INTEGER",  # from the file's metadata
    "ALTER TABLE trial ADD COLUMN frequency_start_hz REAL",
    "ALTER TABLE trial ADD COLUMN frequency_end_hz REAL",
)

# Number n brings a database from user_version n-1 to n. A released migration is never edited: databases
# that already ran it would differ from new ones. A change is a new entry at the end.
MIGRATIONS: tuple[tuple[str, ...], ...] = (_M001, _M002, _M003, _M004)


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The database's schema version; StoreError when it is newer than this program, or not edgebench's."""
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} has schema {version}; this edgebench knows up to {len(MIGRATIONS)}",
            "upgrade edgebench, or name another database with --db",
        )
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if (tables or version) and not {"run", "artifact"} <= tables:
        raise StoreError(
            f"{path} is an SQLite database, but not one of edgebench's", "name another file with --db"
        )
    return version


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database to the newest schema, one transaction per migration."""
    for number in range(check(connection, path) + 1, len(MIGRATIONS) + 1):
        with connection:  # commits, or rolls the whole migration back
            connection.execute("BEGIN IMMEDIATE")
            if _version(connection) >= number:
                continue  # another process was quicker
            for statement in MIGRATIONS[number - 1]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
