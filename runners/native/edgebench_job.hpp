// What our native programs have in common: the job file, speed tests, and the JSON lines that answer.
//
// A program brings a `Model` and a `Settings` of its own, and the ops that only it knows. C++17 and Linux, no
// engine. Times are seconds of CLOCK_BOOTTIME, the clock of /proc/uptime.

#pragma once

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

namespace edgebench {

inline const char * const FORMAT = "edgebench-job 1";
inline const int MOST_TOKENS = 1 << 22;  // a job file that asks for more is damaged
inline const int SPIN_STEPS = 2000000;  // some ms of integer work

// What a program does not do; its words go to whoever wrote the job.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The device's uptime.
inline double now_s() {
    timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// ---- what is written ------------------------------------------------------------------------------------

// Where lines go besides standard output; none until `write_to`.
inline FILE * out_file = nullptr;

// Groups that the file held before: an earlier try of the same job was broken off after them.
inline std::set<int> answered;

// Appends to a file from now on, after what an earlier try has left whole.
inline void write_to(const char * path) {
    std::ifstream before(path);
    std::string line;
    bool is_cut = false;
    while (std::getline(before, line)) {
        int group = 0;
        if (sscanf(line.c_str(), "{\"type\":\"group\",\"group\":%d,", &group) == 1 && line.back() == '}') {
            answered.insert(group);
        }
        is_cut = before.eof();  // its last line has no end
    }
    out_file = fopen(path, "a");
    if (!out_file) {
        throw Refused(std::string("can't write ") + path + ": " + strerror(errno));
    }
    if (is_cut) {
        fputc('\n', out_file);
    }
}

// One line, at once, to the file and to standard output; who watches the latter may be gone.
inline void write_line(const std::string & line) {
    for (FILE * to : {out_file, stdout}) {
        if (to && (fwrite(line.data(), 1, line.size(), to) != line.size() || fputc('\n', to) == EOF || fflush(to))) {
            if (to == out_file) {
                fprintf(stderr, "can't write: is the disk full?\n");
                _exit(74);
            }
        }
    }
}

// A text as JSON has it.
inline std::string json_text(const std::string & text) {
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

// One JSON object, grown member by member.
class Line {
  public:
    explicit Line(const char * type) { text_ = std::string("{\"type\":") + json_text(type); }
    Line & add(const char * key, const std::string & value) { return raw(key, json_text(value)); }
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
        text_ += "," + json_text(key) + ":" + value;
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

// Bytes of this process, and the times it waited for the disk; -1: the kernel does not tell.
struct Memory {
    int64_t peak = -1, rss = -1, anon = -1, file = -1, swap = -1, n_major_faults = -1;
};

// The same, now.
inline Memory read_memory() {
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

// Lets the peak begin anew, where the kernel can.
inline void reset_peak() {
    if (FILE * f = fopen("/proc/self/clear_refs", "w")) {
        fputs("5", f);
        fclose(f);
    }
}

// The canary: how long a fixed piece of work takes, the host's speed with no engine in it.
inline double spin_s() {
    const double begun = now_s();
    volatile uint32_t x = 1;
    for (int i = 0; i < SPIN_STEPS; i++) {
        x = x * 1103515245u + 12345u;
    }
    return now_s() - begun;
}

// ---- the job file ---------------------------------------------------------------------------------------

// The words of a line, checked as they are taken.
class Words {
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

// ---- speed ----------------------------------------------------------------------------------------------

// What is measured: random tokens, minutes of writing, or the answer to a request.
template <typename Model>
struct Test {
    std::string name;
    int n_prompt = 0, n_gen = 0, n_depth = 0, first = 0, n_rep = 1;
    uint32_t seed = 0;
    double min_s = 0, sustained_s = 0;
    bool is_request = false;
    typename Model::Request request;
};

// What a repetition took; -1: it has no such part.
struct Timed {
    double prefill_s = -1, decode_s = -1, ttft_s = -1, total_s = 0, engine_s = -1;
    int n_prompt = 0, n_gen = 0;
    std::vector<double> token_times_s;
};

// Does a test: a warm-up, repetitions that are told one by one, and the window they filled.
//
// Of a model it uses Token, open, reset, prefill, n_ctx, cache_bytes, n_vocab, add_bos and bos; of a request
// Request, prompt_of (its tokens), next_of (the likeliest token that goes on) and shows (whether one is seen).
template <typename Model>
class Bench {
  public:
    explicit Bench(Model & model) : model_(model) {}

    void run(const Test<Model> & test) {
        random_.seed(test.seed);
        const int n_asked = test.is_request ? int(model_.prompt_of(test.request).size()) : 0;
        model_.open(test.n_prompt + test.n_gen + test.n_depth + n_asked, 1);
        Test<Model> warm_up = test;
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
    using Token = typename Model::Token;

    Timed repetition(const Test<Model> & test, int index, const char * phase) {
        model_.reset();
        if (test.n_depth) {
            model_.prefill(tokens(test.n_depth, true));
        }
        reset_peak();
        const double canary_before_s = spin_s();
        const Memory before = read_memory();
        begun_at_ = now_s();
        const Timed timed = test.is_request ? answer(test) : test.sustained_s > 0 ? sustained(test) : synthetic(test);
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
    std::vector<Token> tokens(int n, bool first) {  // a text's first is BOS where the model adds one
        std::vector<Token> made;
        for (int i = 0; i < n; i++) {
            made.push_back(Token(random_() % uint32_t(model_.n_vocab)));
        }
        if (first && n && model_.add_bos) {
            made[0] = model_.bos;
        }
        return made;
    }
    double timed_prefill(const std::vector<Token> & part, double & inside_s) {
        const double begun = now_s();
        model_.prefill(part);
        const double done = now_s();
        inside_s += done - begun;
        return done;
    }
    Timed synthetic(const Test<Model> & test) {
        const std::vector<Token> prompt = tokens(test.n_prompt, !test.n_depth);
        const std::vector<Token> steps = tokens(test.n_gen, !test.n_depth && !test.n_prompt);
        Timed timed;
        timed.n_prompt = test.n_prompt;
        timed.n_gen = test.n_gen;
        timed.engine_s = 0;
        const double start = now_s();
        const double prefilled = prompt.empty() ? start : timed_prefill(prompt, timed.engine_s);
        double end = prefilled;
        for (Token token : steps) {
            end = timed_prefill({token}, timed.engine_s);
            timed.token_times_s.push_back(end - start);
        }
        timed.prefill_s = prompt.empty() ? -1 : prefilled - start;
        timed.decode_s = steps.empty() ? -1 : end - prefilled;
        timed.total_s = end - start;
        return timed;
    }
    Timed sustained(const Test<Model> & test) {
        Timed timed;
        timed.engine_s = 0;
        const double start = now_s();
        double told = start, end = start;
        while (end - start < test.sustained_s) {
            model_.reset();
            for (Token token : tokens(test.n_gen, true)) {
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
    Timed answer(const Test<Model> & test) {
        Timed timed;
        const double start = now_s();
        const auto & prompt = model_.prompt_of(test.request);
        model_.prefill(prompt);
        const double prefilled = now_s();
        double end = prefilled;
        for (int i = 0; i < test.n_gen; i++) {
            const Token token = model_.next_of(test.request);
            const bool shown = model_.shows(token);
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

// Does a job file, op by op; a program adds how it reads its settings, and the ops of its own.
//
// Of a model it uses ASKS (the op of a request), request_of (reads its last words), open and facts.
template <typename Model, typename Settings>
class JobFile {
  public:
    explicit JobFile(const std::string & path) : in_(path) {
        if (!in_) {
            throw Refused("there is no job file " + path);
        }
    }
    virtual ~JobFile() = default;

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
                for (int i = 0; i < 7; i++) {
                    const std::string key = words.word();
                    if (!set(key, words)) {
                        words.fail("has a setting " + key + ", which is unknown here");
                    }
                }
            } else {
                load();
                step(op, words);
            }
        }
        load();
    }

  protected:
    virtual bool set(const std::string & key, Words & words) = 0;  // false: there is no such setting
    virtual void own_step(const std::string & op, Words & words) = 0;

    Words row(const char * op) {  // the next line, which has to be this
        if (!next()) {
            throw Refused("the job file ends in the middle of a group");
        }
        Words words(line_, number_);
        if (words.word() != op) {
            words.fail(std::string("is not the ") + op + " that is due");
        }
        return words;
    }
    void answer(int item, const std::vector<double> & sums) const {
        Line("answer").add("group", group_).add("item", item).list("logprobs", sums).write();
    }

    Settings settings_;
    std::unique_ptr<Model> model_;

  private:
    bool next() {
        number_++;
        return bool(std::getline(in_, line_));
    }
    void load() {
        if (model_) {
            return;
        }
        const Memory before = read_memory();
        const double start = now_s();
        model_.reset(new Model(path_, settings_));
        const double end = now_s();
        Line("loaded").add("load_s", end - start).add("start_s", start).add("end_s", end)
            .maybe("baseline_rss_bytes", before.rss).raw("facts", model_->facts()).write();
    }
    void step(const std::string & op, Words & words) {
        if (op == "test" || op == "sustained" || op == Model::ASKS) {
            bench(op, words);
        } else if (op == "context") {
            const int n_ctx = words.whole(1, MOST_TOKENS);
            model_->open(n_ctx, words.whole(1, 1 << 16));
        } else if (op == "group") {
            group_ = words.whole(0, 1 << 30);
            begun_s_ = now_s();
            if (answered.count(group_)) {
                skip_group();
            }
        } else if (op == "endgroup") {
            Line("group").add("group", group_).add("start_s", begun_s_).add("group_s", now_s() - begun_s_).write();
        } else {
            own_step(op, words);
        }
    }
    void skip_group() {
        do {
            if (!next()) {
                throw Refused("the job file ends in the middle of a group");
            }
        } while (line_ != "endgroup");
    }
    void bench(const std::string & op, Words & words) {
        Test<Model> test;
        test.name = words.word();
        if (op == "test") {
            test.n_prompt = words.whole(0, MOST_TOKENS);
            test.n_gen = words.whole(0, MOST_TOKENS);
            test.n_depth = words.whole(0, MOST_TOKENS);
            test.seed = uint32_t(words.whole(0, 1 << 30));
        } else {
            test.n_gen = words.whole(1, MOST_TOKENS);
        }
        if (op == "sustained") {
            test.sustained_s = words.seconds();
            test.seed = uint32_t(words.whole(0, 1 << 30));
        } else {
            test.first = words.whole(0, 1 << 20);
            test.n_rep = words.whole(1, 1 << 20);
            test.min_s = words.seconds();
        }
        if (op == Model::ASKS) {
            test.is_request = true;
            test.request = model_->request_of(words);
        }
        Bench<Model>(*model_).run(test);
    }

    std::ifstream in_;
    std::string line_, path_;
    int number_ = 0, group_ = 0;
    double begun_s_ = 0;
};

// ---- a program ------------------------------------------------------------------------------------------

// Does what a program is for, `work() -> exit status`; what goes wrong is its last line, or told on standard error.
template <typename Work>
int status_of(const Work & work) {
    try {
        return work();
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

}  // namespace edgebench
