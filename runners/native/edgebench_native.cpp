// edgebench-native: does a job file's measurements with libllama, and writes what it found as JSON lines.
//
//   edgebench-native JOB OUT       do JOB; every line goes to OUT (appended) and to standard output
//   edgebench-native --chat MODEL [THREADS]      talk to a model, on a terminal
//   edgebench-native --version     what it was built from
//
// It decides nothing: tests, tokens and batches stand in the job file (edgebench/runners/native_job.py, which
// describes the format). Times are seconds of CLOCK_BOOTTIME, the clock of /proc/uptime. One process, one model.

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include "llama.h"

namespace {

const char * const FORMAT = "edgebench-job 1";
const int MOST_TOKENS = 1 << 22;  // a job file that asks for more is damaged
const int SPIN_STEPS = 2000000;  // some ms of integer work

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

double now_s() {
    timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// ---- what is written ------------------------------------------------------------------------------------

FILE * out_file = nullptr;

void write_line(const std::string & line) {
    for (FILE * to : {out_file, stdout}) {
        if (to && (fwrite(line.data(), 1, line.size(), to) != line.size() || fputc('\n', to) == EOF || fflush(to))) {
            if (to == out_file) {
                fprintf(stderr, "can't write: is the disk full?\n");
                _exit(74);
            }
        }
    }
}

std::string quoted(const std::string & text) {
    std::string made = "\"";
    for (unsigned char c : text) {
        char escape[8];
        if (c == '"' || c == '\\') {
            made += '\\';
            made += char(c);
        } else if (c < 0x20 || c >= 0x7f) {  // bytes beyond ASCII may be no UTF-8: shown as what they are
            snprintf(escape, sizeof escape, "\\u%04x", c);
            made += escape;
        } else {
            made += char(c);
        }
    }
    return made + "\"";
}

class Line {  // one JSON object
  public:
    explicit Line(const char * type) { text_ = std::string("{\"type\":") + quoted(type); }
    Line & add(const char * key, const std::string & value) { return raw(key, quoted(value)); }
    Line & add(const char * key, double value) { return raw(key, number(value)); }
    Line & add(const char * key, int64_t value) { return raw(key, std::to_string(value)); }
    Line & add(const char * key, int value) { return raw(key, std::to_string(value)); }
    Line & flag(const char * key, bool value) { return raw(key, value ? "true" : "false"); }
    Line & maybe(const char * key, bool there, double value) { return raw(key, there ? number(value) : "null"); }
    Line & maybe(const char * key, int64_t value) { return raw(key, value < 0 ? "null" : std::to_string(value)); }
    Line & list(const char * key, const std::vector<double> & values) {
        std::string made = "[";
        for (size_t i = 0; i < values.size(); i++) {
            made += (i ? "," : "") + number(values[i]);
        }
        return raw(key, made + "]");
    }
    Line & raw(const char * key, const std::string & value) {
        text_ += "," + quoted(key) + ":" + value;
        return *this;
    }
    std::string object() const { return text_ + "}"; }
    void write() const { write_line(object()); }

    static std::string number(double value) {
        char made[40];
        if (!std::isfinite(value)) {
            return "null";
        }
        snprintf(made, sizeof made, "%.17g", value);
        return made;
    }

  private:
    std::string text_;
};

// ---- what this process takes ----------------------------------------------------------------------------

struct Memory {
    int64_t peak = -1, rss = -1, anon = -1, file = -1, swap = -1, n_major_faults = -1;
};

Memory read_memory() {
    Memory found;
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        const std::pair<const char *, int64_t *> keys[] = {
            {"VmHWM:", &found.peak},    {"VmRSS:", &found.rss},   {"RssAnon:", &found.anon},
            {"RssFile:", &found.file},  {"VmSwap:", &found.swap},
        };
        for (const auto & key : keys) {
            if (line.rfind(key.first, 0) == 0) {
                *key.second = 1024 * std::strtoll(line.c_str() + strlen(key.first), nullptr, 10);
            }
        }
    }
    std::ifstream stat("/proc/self/stat");
    std::getline(stat, line);
    const size_t name_end = line.rfind(')');
    if (name_end != std::string::npos) {
        std::istringstream fields(line.substr(name_end + 1));
        std::string word;
        for (int i = 3; i <= 12 && fields >> word; i++) {
            if (i == 12) {
                found.n_major_faults = std::strtoll(word.c_str(), nullptr, 10);
            }
        }
    }
    return found;
}

void reset_peak() {
    if (FILE * f = fopen("/proc/self/clear_refs", "w")) {
        fputs("5", f);
        fclose(f);
    }
}

double spin_s() {  // the host's speed, engine aside
    const double begun = now_s();
    volatile uint32_t x = 1;
    for (int i = 0; i < SPIN_STEPS; i++) {
        x = x * 1103515245u + 12345u;
    }
    return now_s() - begun;
}

// ---- llama.cpp's own words ------------------------------------------------------------------------------

struct Log {
    std::vector<std::string> lines;
    double cache_mib = 0;
} log_;

void hear(ggml_log_level, const char * text, void *) {
    const std::string line(text);
    const size_t at = line.find("KV buffer size =");
    if (at != std::string::npos) {
        log_.cache_mib += std::strtod(line.c_str() + at + strlen("KV buffer size ="), nullptr);
    }
    log_.lines.push_back(line.substr(0, line.find_last_not_of(" \n") + 1));
    if (log_.lines.size() > 400) {
        log_.lines.erase(log_.lines.begin());
    }
}

std::string last_error() {
    for (const std::string & line : log_.lines) {
        if (line.find("error") != std::string::npos || line.find("failed") != std::string::npos) {
            return line;
        }
    }
    return log_.lines.empty() ? "llama.cpp gave no reason" : log_.lines.front();
}

// ---- the job file ---------------------------------------------------------------------------------------

class Words {  // the words of a line, checked as they are taken
  public:
    Words(const std::string & line, int number) : in_(line), number_(number) {}
    std::string word() {
        std::string found;
        if (!(in_ >> found)) {
            fail("ends early");
        }
        return found;
    }
    int whole(int least, int most) {
        const std::string found = word();
        char * end = nullptr;
        const long long value = std::strtoll(found.c_str(), &end, 10);
        if (*end || value < least || value > most) {
            fail("has " + found + " where a number from " + std::to_string(least) + " on is due");
        }
        return int(value);
    }
    double seconds() {
        const std::string found = word();
        char * end = nullptr;
        const double value = std::strtod(found.c_str(), &end);
        if (*end || !(value >= 0 && value < 1e6)) {
            fail("has " + found + " where seconds are due");
        }
        return value;
    }
    std::string text() {  // hex of bytes; - is empty
        const std::string found = word();
        std::string made;
        if (found == "-") {
            return made;
        }
        if (found.size() % 2) {
            fail("has an odd number of hex digits");
        }
        for (size_t i = 0; i < found.size(); i += 2) {
            char * end = nullptr;
            const std::string pair = found.substr(i, 2);
            made += char(std::strtol(pair.c_str(), &end, 16));
            if (*end) {
                fail("has a text that is no hex");
            }
        }
        return made;
    }
    [[noreturn]] void fail(const std::string & what) const {
        throw Refused("line " + std::to_string(number_) + " of the job file " + what);
    }

  private:
    std::istringstream in_;
    int number_;
};

struct Settings {
    int n_threads = 1, n_batch = 2048, n_ubatch = 512;
    std::string flash_attn = "on", type_k = "f16", type_v = "f16";
    bool mmap = true;
};

int named(const std::map<std::string, int> & known, const std::string & name, const Words & words) {
    const auto found = known.find(name);
    if (found == known.end()) {
        words.fail("names " + name + ", which is unknown here");
    }
    return found->second;
}

const std::map<std::string, int> FLASH = {{"auto", -1}, {"off", 0}, {"on", 1}};
const std::map<std::string, int> TYPES = {
    {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16},
    {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}, {"q4_1", GGML_TYPE_Q4_1},
    {"q5_0", GGML_TYPE_Q5_0}, {"q5_1", GGML_TYPE_Q5_1}, {"iq4_nl", GGML_TYPE_IQ4_NL},
};

// ---- the model ------------------------------------------------------------------------------------------

struct Row {
    llama_token token;
    llama_pos pos;
    bool wanted;
    std::vector<llama_seq_id> seqs;
};

class Model {
  public:
    Model(const std::string & path, const Settings & settings) : settings_(settings) {
        llama_model_params params = llama_model_default_params();
        params.n_gpu_layers = 0;
        params.main_gpu = -1;
        params.split_mode = LLAMA_SPLIT_MODE_NONE;
        params.load_mode = settings.mmap ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
        model_ = llama_model_load_from_file(path.c_str(), params);
        if (!model_) {
            throw Refused("llama.cpp can't open " + path + ": " + last_error());
        }
        vocab_ = llama_model_get_vocab(model_);
        n_vocab = llama_vocab_n_tokens(vocab_);
        for (llama_token token = 0; token < n_vocab; token++) {
            if (llama_vocab_is_eog(vocab_, token)) {
                enders_.push_back(token);
            }
        }
        add_bos = llama_vocab_get_add_bos(vocab_);
        bos = llama_vocab_bos(vocab_);
    }
    ~Model() {
        close();
        llama_model_free(model_);
    }
    Model(const Model &) = delete;
    Model & operator=(const Model &) = delete;

    void open(int n_ctx, int n_seq_max) {
        close();
        llama_context_params params = llama_context_default_params();
        params.n_ctx = uint32_t(n_ctx);
        params.n_seq_max = uint32_t(n_seq_max);
        params.kv_unified = true;
        params.n_batch = uint32_t(settings_.n_batch);
        params.n_ubatch = uint32_t(settings_.n_ubatch);
        params.n_threads = params.n_threads_batch = settings_.n_threads;
        params.flash_attn_type = llama_flash_attn_type(FLASH.at(settings_.flash_attn));
        params.type_k = ggml_type(TYPES.at(settings_.type_k));
        params.type_v = ggml_type(TYPES.at(settings_.type_v));
        params.swa_full = n_seq_max > 1;
        log_.cache_mib = 0;
        ctx_ = llama_init_from_model(model_, params);
        if (!ctx_) {
            throw Refused("llama.cpp can't make a context of " + std::to_string(n_ctx) + " tokens: " + last_error());
        }
        memory_ = llama_get_memory(ctx_);
        n_batch_ = int(llama_n_batch(ctx_));
        n_seq_max_ = n_seq_max;
        batch_ = llama_batch_init(n_batch_, 0, n_seq_max);
    }
    void reset() {
        need();
        llama_memory_clear(memory_, true);
    }
    int n_ctx() const { return int(llama_n_ctx(ctx_)); }

    void prefill(const std::vector<llama_token> & tokens) {
        std::vector<llama_token> ids(tokens);
        for (size_t start = 0; start < ids.size(); start += size_t(n_batch_)) {
            const int n = int(std::min(ids.size() - start, size_t(n_batch_)));
            decode(llama_batch_get_one(ids.data() + start, n));
        }
        llama_synchronize(ctx_);
    }
    llama_token greedy() {  // the likeliest token that does not end the text
        const float * logits = llama_get_logits_ith(ctx_, -1);
        llama_token best = -1;
        for (llama_token token = 0; token < n_vocab; token++) {
            if ((best < 0 || logits[token] > logits[best]) &&
                std::find(enders_.begin(), enders_.end(), token) == enders_.end()) {
                best = token;
            }
        }
        return best;
    }
    llama_token likeliest() {
        const float * logits = llama_get_logits_ith(ctx_, -1);
        return llama_token(std::max_element(logits, logits + n_vocab) - logits);
    }
    bool ends(llama_token token) const { return llama_vocab_is_eog(vocab_, token); }
    std::vector<llama_token> tokenize(const std::string & text) {
        std::vector<llama_token> found(text.size() + 8);
        const int n = llama_tokenize(vocab_, text.data(), int(text.size()), found.data(), int(found.size()), true, true);
        if (n < 0) {
            throw Refused("llama.cpp can't tokenize a text of " + std::to_string(text.size()) + " bytes");
        }
        found.resize(size_t(n));
        return found;
    }
    std::string piece(llama_token token) {
        char shown[256];
        const int n = llama_token_to_piece(vocab_, token, shown, sizeof shown, 0, false);
        return std::string(shown, size_t(std::max(n, 0)));
    }
    std::string chat_prompt(const std::string & text) {
        const char * tmpl = llama_model_chat_template(model_, nullptr);
        const llama_chat_message message = {"user", text.c_str()};
        std::vector<char> made(4 * text.size() + 4096);
        const int n = tmpl ? llama_chat_apply_template(tmpl, &message, 1, true, made.data(), int(made.size())) : 0;
        return n > 0 && n <= int(made.size()) ? std::string(made.data(), size_t(n)) : text;
    }
    void hold(const std::vector<llama_token> & tokens) {  // these, and nothing else, in sequence 0
        reset();
        std::vector<Row> rows;
        for (size_t i = 0; i < tokens.size(); i++) {
            rows.push_back({tokens[i], llama_pos(i), false, {0}});
        }
        evaluate(rows, {});
    }
    void branch_off(const std::vector<Row> & rows) {  // every sequence begins with what sequence 0 holds
        std::vector<bool> seen(size_t(n_seq_max_) + 1);
        for (const Row & row : rows) {
            for (llama_seq_id seq : row.seqs) {
                if (seq && !seen[size_t(seq)]) {
                    llama_memory_seq_cp(memory_, 0, seq, -1, -1);
                    seen[size_t(seq)] = true;
                }
            }
        }
    }
    void forget_branches() { llama_memory_seq_keep(memory_, 0); }

    // (row, token) -> log-probability, of what was asked of each row
    std::map<std::pair<int, llama_token>, double> evaluate(
            const std::vector<Row> & rows, const std::map<int, std::vector<llama_token>> & asked) {
        need();
        std::map<std::pair<int, llama_token>, double> found;
        for (size_t start = 0; start < rows.size(); start += size_t(n_batch_)) {
            const int n = int(std::min(rows.size() - start, size_t(n_batch_)));
            batch_.n_tokens = n;
            for (int k = 0; k < n; k++) {
                const Row & row = rows[start + size_t(k)];
                batch_.token[k] = row.token;
                batch_.pos[k] = row.pos;
                batch_.n_seq_id[k] = int32_t(row.seqs.size());
                std::copy(row.seqs.begin(), row.seqs.end(), batch_.seq_id[k]);
                batch_.logits[k] = row.wanted;
            }
            decode(batch_);
            llama_synchronize(ctx_);
            for (int k = 0; k < n; k++) {
                const int index = int(start) + k;
                const auto wanted = asked.find(index);
                if (wanted != asked.end()) {
                    read(k, index, wanted->second, found);
                }
            }
        }
        return found;
    }

    bool owns(llama_seq_id seq) const { return seq >= 0 && seq < n_seq_max_; }
    bool is_open() const { return ctx_ != nullptr; }
    int64_t cache_bytes() const { return log_.cache_mib > 0 ? int64_t(std::llround(log_.cache_mib * 1048576)) : -1; }
    std::string facts() {
        char description[256] = "";
        llama_model_desc(model_, description, sizeof description);
        return Line("facts")
            .add("system_info", llama_print_system_info())
            .add("model_description", description)
            .add("n_params", int64_t(llama_model_n_params(model_)))
            .add("n_vocab", n_vocab)
            .add("n_ctx_train", int(llama_model_n_ctx_train(model_)))
            .flag("add_bos", add_bos)
            .object();
    }

    int n_vocab = 0;
    bool add_bos = false;
    llama_token bos = -1;

  private:
    void need() const {
        if (!ctx_) {
            throw Refused("the job file scores before it opens a context");
        }
    }
    void close() {
        if (ctx_) {
            llama_batch_free(batch_);
            llama_free(ctx_);
            ctx_ = nullptr;
        }
    }
    void decode(const llama_batch & batch) {
        const int code = llama_decode(ctx_, batch);
        if (code) {
            throw Refused("llama_decode returned " + std::to_string(code) + ": " + last_error());
        }
    }
    void read(int k, int index, const std::vector<llama_token> & tokens,
              std::map<std::pair<int, llama_token>, double> & found) {
        const float * logits = llama_get_logits_ith(ctx_, k);
        if (!logits) {
            throw Refused("llama.cpp gives no logits where some were asked for");
        }
        const float top = *std::max_element(logits, logits + n_vocab);
        double sum = 0;
        for (int i = 0; i < n_vocab; i++) {
            sum += double(expf(logits[i] - top));
        }
        const double norm = double(top) + std::log(sum);
        for (llama_token token : tokens) {
            found[{index, token}] = double(logits[token]) - norm;
        }
    }

    Settings settings_;
    llama_model * model_ = nullptr;
    const llama_vocab * vocab_ = nullptr;
    llama_context * ctx_ = nullptr;
    llama_memory_t memory_ = nullptr;
    llama_batch batch_ = {};
    int n_batch_ = 0, n_seq_max_ = 0;
    std::vector<llama_token> enders_;
};

// ---- speed ----------------------------------------------------------------------------------------------

struct Test {
    std::string name;
    int n_prompt = 0, n_gen = 0, n_depth = 0, first = 0, n_rep = 1, n_chat = 0;
    uint32_t seed = 0;
    double min_s = 0, sustained_s = 0;
    std::string chat;  // text of a request
    bool is_chat = false;
};

struct Timed {
    double prefill_s = -1, decode_s = -1, ttft_s = -1, total_s = 0, engine_s = -1;
    int n_prompt = 0, n_gen = 0;
    std::vector<double> token_times_s;
};

class Bench {
  public:
    explicit Bench(Model & model) : model_(model) {}

    void run(Test test) {
        random_.seed(test.seed);
        if (test.is_chat) {
            test.n_chat = int(model_.tokenize(test.chat).size());
        }
        model_.open(test.n_prompt + test.n_gen + test.n_depth + test.n_chat, 1);
        Test warm_up = test;
        warm_up.sustained_s = 0;
        repetition(warm_up, 0, "warmup");
        double start_s = -1, end_s = 0, busy_s = 0;
        int64_t n_prompt = 0, n_gen = 0, n = 0;
        for (int i = test.first; n < test.n_rep || end_s - start_s < test.min_s; i++, n++) {
            const Timed timed = repetition(test, i, "measured");
            start_s = start_s < 0 ? begun_at_ : start_s;
            end_s = ended_at_;
            busy_s += timed.total_s;
            n_prompt += timed.n_prompt;
            n_gen += timed.n_gen;
        }
        Line("window").add("test", test.name).add("start_s", start_s).add("end_s", end_s).add("busy_s", busy_s)
            .add("n_requests", n).add("n_prompt", n_prompt).add("n_gen", n_gen).write();
    }

  private:
    Timed repetition(const Test & test, int index, const char * phase) {
        model_.reset();
        if (test.n_depth) {
            model_.prefill(tokens(test.n_depth, true));
        }
        reset_peak();
        const double canary_before_s = spin_s();
        const Memory before = read_memory();
        begun_at_ = now_s();
        const Timed timed = test.is_chat ? chat(test) : test.sustained_s > 0 ? sustained(test) : synthetic(test);
        ended_at_ = now_s();
        const Memory after = read_memory();
        const double canary_after_s = spin_s();
        Line("trial").add("test", test.name).add("phase", phase).add("repetition", index)
            .add("n_prompt", timed.n_prompt).add("n_gen", timed.n_gen).add("n_depth", test.n_depth)
            .add("start_s", begun_at_).add("end_s", ended_at_)
            .maybe("prefill_s", timed.prefill_s >= 0, timed.prefill_s)
            .maybe("decode_s", timed.decode_s >= 0, timed.decode_s)
            .maybe("ttft_s", timed.ttft_s >= 0, timed.ttft_s)
            .add("total_s", timed.total_s)
            .maybe("engine_s", timed.engine_s >= 0, timed.engine_s)
            .list("token_times_s", timed.token_times_s)
            .maybe("n_major_faults", before.n_major_faults < 0 ? -1 : after.n_major_faults - before.n_major_faults)
            .maybe("swap_bytes", before.swap < 0 ? -1 : std::max<int64_t>(0, after.swap - before.swap))
            .add("n_ctx", model_.n_ctx()).maybe("kv_cache_bytes", model_.cache_bytes())
            .maybe("peak_rss_bytes", after.peak).maybe("rss_anon_bytes", after.anon).maybe("rss_file_bytes", after.file)
            .add("canary_before_s", canary_before_s).add("canary_after_s", canary_after_s).write();
        return timed;
    }
    std::vector<llama_token> tokens(int n, bool first) {  // a text's first is BOS where the tokenizer adds one
        std::vector<llama_token> made;
        for (int i = 0; i < n; i++) {
            made.push_back(llama_token(random_() % uint32_t(model_.n_vocab)));
        }
        if (first && n && model_.add_bos) {
            made[0] = model_.bos;
        }
        return made;
    }
    double timed_prefill(const std::vector<llama_token> & part, double & inside_s) {
        const double begun = now_s();
        model_.prefill(part);
        const double done = now_s();
        inside_s += done - begun;
        return done;
    }
    Timed synthetic(const Test & test) {
        const std::vector<llama_token> prompt = tokens(test.n_prompt, !test.n_depth);
        const std::vector<llama_token> steps = tokens(test.n_gen, !test.n_depth && !test.n_prompt);
        Timed timed;
        timed.n_prompt = test.n_prompt;
        timed.n_gen = test.n_gen;
        timed.engine_s = 0;
        const double start = now_s();
        const double prefilled = prompt.empty() ? start : timed_prefill(prompt, timed.engine_s);
        double end = prefilled;
        for (llama_token token : steps) {
            end = timed_prefill({token}, timed.engine_s);
            timed.token_times_s.push_back(end - start);
        }
        timed.prefill_s = prompt.empty() ? -1 : prefilled - start;
        timed.decode_s = steps.empty() ? -1 : end - prefilled;
        timed.total_s = end - start;
        return timed;
    }
    Timed sustained(const Test & test) {
        Timed timed;
        timed.engine_s = 0;
        const double start = now_s();
        double told = start, end = start;
        while (end - start < test.sustained_s) {
            model_.reset();
            for (llama_token token : tokens(test.n_gen, true)) {
                end = timed_prefill({token}, timed.engine_s);
                timed.token_times_s.push_back(end - start);
            }
            if (end - told >= 1) {
                Line("progress").add("share", std::min(1.0, (end - start) / test.sustained_s)).write();
                told = end;
            }
        }
        timed.n_gen = int(timed.token_times_s.size());
        timed.decode_s = timed.total_s = end - start;
        return timed;
    }
    Timed chat(const Test & test) {
        Timed timed;
        const double start = now_s();
        const std::vector<llama_token> prompt = model_.tokenize(test.chat);
        model_.prefill(prompt);
        const double prefilled = now_s();
        double end = prefilled;
        for (int i = 0; i < test.n_gen; i++) {
            const llama_token token = model_.greedy();
            const bool shown = !model_.piece(token).empty();
            end = now_s();
            timed.token_times_s.push_back(end - start);
            if (timed.ttft_s < 0 && shown) {
                timed.ttft_s = end - start;
            }
            if (i < test.n_gen - 1) {
                model_.prefill({token});
            }
        }
        timed.n_prompt = int(prompt.size());
        timed.n_gen = test.n_gen;
        timed.prefill_s = prefilled - start;
        timed.decode_s = end - prefilled;
        timed.total_s = end - start;
        return timed;
    }

    Model & model_;
    std::mt19937 random_;
    double begun_at_ = 0, ended_at_ = 0;
};

// ---- a job ----------------------------------------------------------------------------------------------

class Job {
  public:
    explicit Job(const std::string & path) : in_(path) {
        if (!in_) {
            throw Refused("there is no job file " + path);
        }
    }
    void run() {
        if (!next() || line_ != FORMAT) {
            throw Refused("this is no job file of this version");
        }
        while (next()) {
            Words words(line_, number_);
            const std::string op = words.word();
            if (op == "model") {
                path_ = words.text();
            } else if (op == "settings") {
                settings(words);
            } else {
                load();
                step(op, words);
            }
        }
        load();
    }
    ~Job() { delete model_; }

  private:
    bool next() {
        number_++;
        return bool(std::getline(in_, line_));
    }
    Words row(const char * op) {
        if (!next()) {
            throw Refused("the job file ends in the middle of a group");
        }
        Words words(line_, number_);
        if (words.word() != op) {
            words.fail(std::string("is not the ") + op + " that is due");
        }
        return words;
    }
    void settings(Words & words) {
        for (int i = 0; i < 7; i++) {
            const std::string key = words.word();
            if (key == "threads") {
                settings_.n_threads = words.whole(1, 1024);
            } else if (key == "batch") {
                settings_.n_batch = words.whole(1, 1 << 20);
            } else if (key == "ubatch") {
                settings_.n_ubatch = words.whole(1, 1 << 20);
            } else if (key == "flash") {
                named(FLASH, settings_.flash_attn = words.word(), words);
            } else if (key == "type_k") {
                named(TYPES, settings_.type_k = words.word(), words);
            } else if (key == "type_v") {
                named(TYPES, settings_.type_v = words.word(), words);
            } else if (key == "mmap") {
                settings_.mmap = words.whole(0, 1) == 1;
            } else {
                words.fail("has a setting " + key + ", which is unknown here");
            }
        }
    }
    void load() {
        if (model_) {
            return;
        }
        const Memory before = read_memory();
        const double start = now_s();
        model_ = new Model(path_, settings_);
        const double end = now_s();
        Line("loaded").add("load_s", end - start).add("start_s", start).add("end_s", end)
            .maybe("baseline_rss_bytes", before.rss).raw("facts", model_->facts()).write();
    }
    void step(const std::string & op, Words & words) {
        if (op == "test" || op == "chat" || op == "sustained") {
            bench(op, words);
        } else if (op == "context") {
            const int n_ctx = words.whole(1, MOST_TOKENS);
            model_->open(n_ctx, words.whole(1, 1 << 16));
        } else if (op == "group") {
            group_ = words.whole(0, 1 << 30);
            begun_s_ = now_s();
        } else if (op == "clear") {
            model_->reset();
        } else if (op == "hold") {
            const int n = words.whole(0, MOST_TOKENS);
            std::vector<llama_token> tokens;
            for (int i = 0; i < n; i++) {
                tokens.push_back(words.whole(0, model_->n_vocab - 1));
            }
            model_->hold(tokens);
        } else if (op == "tree") {
            tree(words);
        } else if (op == "endgroup") {
            Line("group").add("group", group_).add("start_s", begun_s_).add("group_s", now_s() - begun_s_).write();
        } else {
            words.fail("has an op " + op + ", which is unknown here");
        }
    }
    void bench(const std::string & op, Words & words) {
        Test test;
        test.name = words.word();
        if (op == "test") {
            test.n_prompt = words.whole(0, MOST_TOKENS);
            test.n_gen = words.whole(0, MOST_TOKENS);
            test.n_depth = words.whole(0, MOST_TOKENS);
            test.seed = uint32_t(words.whole(0, 1 << 30));
        } else if (op == "sustained") {
            test.n_gen = words.whole(1, MOST_TOKENS);
            test.sustained_s = words.seconds();
            test.seed = uint32_t(words.whole(0, 1 << 30));
            test.first = 0;
            Bench(*model_).run(test);
            return;
        } else {
            test.n_gen = words.whole(1, MOST_TOKENS);
            test.is_chat = true;
        }
        test.first = words.whole(0, 1 << 20);
        test.n_rep = words.whole(1, 1 << 20);
        test.min_s = words.seconds();
        if (test.is_chat) {
            test.chat = words.text();
        }
        Bench(*model_).run(test);
    }
    void tree(Words & words) {
        const int n_rows = words.whole(1, MOST_TOKENS), n_items = words.whole(1, 1 << 16);
        const bool shared = words.whole(0, 1) == 1;
        if (!model_->is_open()) {
            words.fail("scores before a context is open");
        }
        std::vector<Row> rows;
        for (int i = 0; i < n_rows; i++) {
            Words told = row("r");
            Row made;
            made.token = told.whole(0, model_->n_vocab - 1);
            made.pos = told.whole(0, MOST_TOKENS);
            made.wanted = told.whole(0, 1) == 1;
            const int n = told.whole(1, 1 << 16);
            for (int k = 0; k < n; k++) {
                made.seqs.push_back(told.whole(0, 1 << 16));
                if (!model_->owns(made.seqs.back())) {
                    told.fail("names a sequence that the context has no place for");
                }
            }
            rows.push_back(made);
        }
        struct Item {
            int number;
            std::vector<std::vector<std::pair<int, llama_token>>> continuations;
        };
        std::vector<Item> items;
        std::map<int, std::vector<llama_token>> asked;
        for (int i = 0; i < n_items; i++) {
            Words told = row("i");
            Item item{told.whole(0, 1 << 30), {}};
            const int n_continuations = told.whole(1, 1 << 16);
            for (int c = 0; c < n_continuations; c++) {
                const int n = told.whole(1, MOST_TOKENS);
                item.continuations.emplace_back();
                for (int k = 0; k < n; k++) {
                    const int at = told.whole(0, n_rows - 1);
                    const llama_token token = told.whole(0, model_->n_vocab - 1);
                    if (!rows[size_t(at)].wanted) {
                        told.fail("reads a row whose logits are not wanted");
                    }
                    item.continuations.back().push_back({at, token});
                    asked[at].push_back(token);
                }
            }
            items.push_back(item);
        }
        if (shared) {
            model_->branch_off(rows);
        }
        const auto found = model_->evaluate(rows, asked);
        model_->forget_branches();
        for (const Item & item : items) {
            std::vector<double> sums;
            for (const auto & reads : item.continuations) {
                double sum = 0;
                for (const auto & read : reads) {
                    sum += found.at(read);
                }
                sums.push_back(sum);
            }
            Line("answer").add("group", group_).add("item", item.number).list("logprobs", sums).write();
        }
    }

    std::ifstream in_;
    std::string line_, path_;
    int number_ = 0, group_ = 0;
    double begun_s_ = 0;
    Settings settings_;
    Model * model_ = nullptr;
};

// ---- talking --------------------------------------------------------------------------------------------

int talk(const std::string & path, int n_threads) {
    Settings settings;
    settings.n_threads = n_threads;
    Model model(path, settings);
    const int n_ctx = 2048, n_most = 512;
    model.open(n_ctx, 1);
    printf("Ask something; an empty line ends it.\n");
    std::string line;
    while (printf("\n> "), fflush(stdout), std::getline(std::cin, line) && !line.empty()) {
        model.reset();  // every question stands for itself
        const std::vector<llama_token> prompt = model.tokenize(model.chat_prompt(line));
        if (int(prompt.size()) + n_most > n_ctx) {
            printf("that is too long: %d tokens\n", int(prompt.size()));
            continue;
        }
        const double start = now_s();
        model.prefill(prompt);
        const double first = now_s();
        int n = 0;
        for (llama_token token = model.likeliest(); n < n_most && !model.ends(token); token = model.likeliest(), n++) {
            fputs(model.piece(token).c_str(), stdout);
            fflush(stdout);
            model.prefill({token});
        }
        const double end = now_s();
        printf("\n[first token after %.2f s, %d tokens at %.1f a second]\n", first - start, n, n / (end - first));
    }
    return 0;
}

}  // namespace

int main(int argc, char ** argv) {
    llama_log_set(hear, nullptr);
    llama_backend_init();
    const std::string verb = argc > 1 ? argv[1] : "";
    if (verb == "--version" && argc == 2) {
        Line("version").add("job_format", FORMAT).add("system_info", llama_print_system_info()).write();
        return 0;
    }
    try {
        if (verb == "--chat" && (argc == 3 || argc == 4)) {
            return talk(argv[2], argc == 4 ? std::max(1, atoi(argv[3])) : 4);
        }
        if (argc != 3 || verb.rfind("--", 0) == 0) {
            fprintf(stderr, "edgebench-native JOB OUT | --chat MODEL [THREADS] | --version\n");
            return 2;
        }
        out_file = fopen(argv[2], "a");
        if (!out_file) {
            fprintf(stderr, "can't write %s: %s\n", argv[2], strerror(errno));
            return 1;
        }
        Job(argv[1]).run();
        Line("done").write();
        return 0;
    } catch (const std::bad_alloc &) {
        Line("error").add("message", std::string("out of memory")).write();
    } catch (const std::exception & error) {
        if (out_file) {
            Line("error").add("message", std::string(error.what())).write();
        } else {
            fprintf(stderr, "%s\n", error.what());
        }
    }
    return 1;
}
