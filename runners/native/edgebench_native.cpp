// edgebench-native: does a job file's measurements with libllama, and writes what it found as JSON lines.
//
//   edgebench-native JOB OUT       do JOB; every line goes to OUT (appended) and to standard output
//   edgebench-native --chat MODEL [THREADS]      talk to a model, on a terminal
//   edgebench-native --version     what it was built from
//
// It decides nothing: tests, tokens and batches stand in the job file (edgebench/runners/native_job.py, which
// describes the format). What it shares with our other programs is edgebench_job.hpp. One process, one model.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "edgebench_job.hpp"
#include "llama.h"

namespace {

using namespace edgebench;

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

// ---- settings -------------------------------------------------------------------------------------------

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
    using Token = llama_token;
    using Request = std::string;
    static constexpr const char * ASKS = "chat";

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
    Request request_of(Words & words) const { return words.text(); }
    std::vector<llama_token> prompt_of(const Request & text) const { return tokenize(text); }
    llama_token next_of(const Request &) const {  // the likeliest token that does not end the text
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
    bool shows(llama_token token) const { return !piece(token).empty(); }
    bool ends(llama_token token) const { return llama_vocab_is_eog(vocab_, token); }
    std::vector<llama_token> tokenize(const std::string & text) const {
        std::vector<llama_token> found(text.size() + 8);
        const int n = llama_tokenize(vocab_, text.data(), int(text.size()), found.data(), int(found.size()), true, true);
        if (n < 0) {
            throw Refused("llama.cpp can't tokenize a text of " + std::to_string(text.size()) + " bytes");
        }
        found.resize(size_t(n));
        return found;
    }
    std::string piece(llama_token token) const {
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

// ---- a job ----------------------------------------------------------------------------------------------

class Job : public JobFile<Model, Settings> {
  public:
    using JobFile::JobFile;

  private:
    bool set(const std::string & key, Words & words) override {
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
            return false;
        }
        return true;
    }
    void own_step(const std::string & op, Words & words) override {
        if (op == "clear") {
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
        } else {
            words.fail("has an op " + op + ", which is unknown here");
        }
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
            answer(item.number, sums);
        }
    }
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
    return status_of([&] {
        if (verb == "--chat" && (argc == 3 || argc == 4)) {
            return talk(argv[2], argc == 4 ? std::max(1, atoi(argv[3])) : 4);
        }
        if (argc != 3 || verb.rfind("--", 0) == 0) {
            fprintf(stderr, "edgebench-native JOB OUT | --chat MODEL [THREADS] | --version\n");
            return 2;
        }
        write_to(argv[2]);
        Job(argv[1]).run();
        Line("done").write();
        return 0;
    });
}
