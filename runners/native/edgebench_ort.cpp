// edgebench-ort: does a job file's measurements with ONNX Runtime, and writes what it found as JSON lines.
//
//   edgebench-ort JOB OUT       do JOB; every line goes to OUT (appended) and to standard output
//   edgebench-ort --version     which library it found
//
// It decides nothing: tests, tokens and texts stand in the job file (edgebench/runners/native_job.py, which
// describes the format). What it shares with our other programs is edgebench_job.hpp. One process, one graph.
//
// libonnxruntime.so.1 lies beside it and is opened by name: the wheels bring the library without its header, so
// functions are called by their place in its table, which only ever grows.

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include "edgebench_job.hpp"

namespace {

using namespace edgebench;

const char * const LIBRARY = "libonnxruntime.so.1";

// ---- ONNX Runtime ---------------------------------------------------------------------------------------

struct OrtEnv;
struct OrtStatus;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtValue;
struct OrtAllocator;
struct OrtMemoryInfo;
struct OrtTypeInfo;
struct OrtTensorInfo;

struct ApiBase {
    const void * const * (*get_api)(uint32_t version);
    const char * (*get_version)();
};

const void * const * api = nullptr;
std::string api_version;

template <int place, typename Made, typename... Args>
Made plain_call(Args... args) {
    return reinterpret_cast<Made (*)(Args...)>(const_cast<void *>(api[place]))(args...);
}

template <int place, typename... Args>
struct Call {  // a function of the table that may fail
    void operator()(Args... args) const {
        if (OrtStatus * status = plain_call<place, OrtStatus *, Args...>(args...)) {
            std::string message = plain_call<2, const char *, const OrtStatus *>(status);
            plain_call<93, void, OrtStatus *>(status);
            throw Refused("onnxruntime: " + message.substr(0, message.find('\n')));
        }
    }
};

template <int place, typename Thing>
struct Release {
    void operator()(Thing * thing) const { plain_call<place, void, Thing *>(thing); }
};

const Call<3, int, const char *, OrtEnv **> create_env;
const Call<6, const OrtEnv *> disable_telemetry;
const Call<7, const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **> create_session;
const Call<9, OrtSession *, const OrtRunOptions *, const char * const *, const OrtValue * const *, size_t,
           const char * const *, size_t, OrtValue **> run_session;
const Call<10, OrtSessionOptions **> create_options;
const Call<22, OrtSessionOptions *, int> set_log_severity;
const Call<24, OrtSessionOptions *, int> set_threads;
const Call<25, OrtSessionOptions *, int> set_threads_between;
const Call<30, const OrtSession *, size_t *> count_inputs;
const Call<31, const OrtSession *, size_t *> count_outputs;
const Call<33, const OrtSession *, size_t, OrtTypeInfo **> input_type;
const Call<34, const OrtSession *, size_t, OrtTypeInfo **> output_type;
const Call<36, const OrtSession *, size_t, OrtAllocator *, char **> input_name;
const Call<37, const OrtSession *, size_t, OrtAllocator *, char **> output_name;
const Call<48, OrtAllocator *, const int64_t *, size_t, int, OrtValue **> create_tensor;
const Call<49, const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **> wrap_tensor;
const Call<51, OrtValue *, void **> tensor_data;
const Call<55, const OrtTypeInfo *, const OrtTensorInfo **> as_tensor;
const Call<60, const OrtTensorInfo *, int *> element_type;
const Call<61, const OrtTensorInfo *, size_t *> count_dimensions;
const Call<62, const OrtTensorInfo *, int64_t *, size_t> read_dimensions;
const Call<65, const OrtValue *, OrtTensorInfo **> tensor_info;
const Call<69, int, int, OrtMemoryInfo **> create_cpu_memory;
const Call<76, OrtAllocator *, void *> allocator_free;
const Call<78, OrtAllocator **> default_allocator;

using Session = std::unique_ptr<OrtSession, Release<95, OrtSession>>;
using Value = std::unique_ptr<OrtValue, Release<96, OrtValue>>;
using TypeInfo = std::unique_ptr<OrtTypeInfo, Release<98, OrtTypeInfo>>;
using TensorInfo = std::unique_ptr<OrtTensorInfo, Release<99, OrtTensorInfo>>;
using Options = std::unique_ptr<OrtSessionOptions, Release<100, OrtSessionOptions>>;

const int FLOAT = 1, INT64 = 7, FLOAT16 = 10;  // element types
const int ERRORS_ONLY = 3;

std::string own_folder() {  // of this program, or of the loader that started it, which lies beside it
    char path[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    const std::string found(path, size_t(std::max<ssize_t>(n, 0)));
    return found.substr(0, found.rfind('/') + 1);
}

void open_library() {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // looked at once, while the library is loaded
    void * library = dlopen((own_folder() + LIBRARY).c_str(), RTLD_NOW);
    if (!library) {
        throw Refused(std::string("the library can't be opened: ") + dlerror());
    }
    const auto get = reinterpret_cast<const ApiBase * (*)()>(dlsym(library, "OrtGetApiBase"));
    api = get ? get()->get_api(1) : nullptr;
    if (!api) {
        throw Refused(std::string(LIBRARY) + " does not give its first table of functions any more");
    }
    api_version = get()->get_version();
}

struct Tensor {  // what a graph says of an input or an output
    int type = 0;
    std::vector<int64_t> shape;  // -1: left open
};

Tensor described(const OrtTensorInfo * info) {
    Tensor found;
    size_t n = 0;
    element_type(info, &found.type);
    count_dimensions(info, &n);
    found.shape.resize(n);
    read_dimensions(info, found.shape.data(), n);
    return found;
}

float from_half(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
    if (exponent == 0) {
        const float value = std::ldexp(float(fraction), -24);
        return sign ? -value : value;
    }
    const uint32_t made = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | fraction << 13;
    float value;
    memcpy(&value, &made, sizeof value);
    return value;
}

// ---- the model ------------------------------------------------------------------------------------------

struct Settings {  // the others that a job file has are llama.cpp's: here the graph decides
    int n_threads = 1, n_ubatch = 512;
};

bool is_there(const std::string & path, bool folder) {
    struct stat found;
    return stat(path.c_str(), &found) == 0 && bool(S_ISDIR(found.st_mode)) == folder;
}

class Configuration {  // a JSON file beside the graph; of it a few plain members, wherever they stand
  public:
    explicit Configuration(const std::string & path) {
        std::ifstream in(path);
        std::stringstream all;
        all << in.rdbuf();
        text_ = all.str();
    }
    bool is_there() const { return !text_.empty(); }
    bool is_true(const char * key) const { return value(key).rfind("true", 0) == 0; }
    int64_t positive(const char * key) const {  // -1: it does not tell
        const long long found = std::strtoll(value(key).c_str(), nullptr, 10);
        return found > 0 && found < MOST_TOKENS ? found : -1;
    }

  private:
    std::string value(const char * key) const {
        const std::string named = json_text(key);
        size_t at = text_.find(named);
        at = at == std::string::npos ? at : text_.find_first_not_of(" \t\r\n", at + named.size());
        if (at == std::string::npos || text_[at] != ':') {
            return "";
        }
        at = text_.find_first_not_of(" \t\r\n", at + 1);
        return at == std::string::npos ? "" : text_.substr(at, 24);
    }
    std::string text_;
};

class Model {
  public:
    using Token = int64_t;
    struct Request {
        std::set<int> enders;
        std::vector<int64_t> tokens;
    };
    static constexpr const char * ASKS = "ask";

    Model(const std::string & path, const Settings & settings) : settings_(settings) {
        const std::string file = is_there(path, true) ? path + "/model.onnx" : path;
        if (!is_there(file, false)) {
            throw Refused("there is no graph " + file);
        }
        const std::string folder = file.substr(0, file.rfind('/') + 1);
        const Configuration config(folder + "config.json"), genai(folder + "genai_config.json");
        is_genai_ = genai.is_there();
        shares_buffer_ = genai.is_true("past_present_share_buffer");

        create_env(ERRORS_ONLY, "edgebench", &env_);
        disable_telemetry(env_);
        default_allocator(&allocator_);
        create_cpu_memory(0, 0, &memory_);  // of a device's own allocator, and the default kind
        OrtSessionOptions * made = nullptr;
        create_options(&made);
        const Options options(made);
        set_log_severity(made, ERRORS_ONLY);
        set_threads(made, settings.n_threads);
        set_threads_between(made, 1);
        OrtSession * session = nullptr;
        create_session(env_, file.c_str(), made, &session);
        session_.reset(session);
        look_at(genai, config);
    }

    void open(int n_ctx, int) {  // a text at a time: more sequences are of no use
        n_ctx_ = n_ctx;
        ones_.assign(size_t(n_ctx), 1);
        positions_.resize(size_t(n_ctx));
        for (int i = 0; i < n_ctx; i++) {
            positions_[size_t(i)] = i;
        }
        if (shares_buffer_) {
            cells_ = blanks(n_ctx);
        }
        reset();
    }
    void reset() {
        need();
        n_seen_ = 0;
        last_.reset();
        if (!shares_buffer_) {
            cells_ = blanks(0);
        }
    }
    int n_ctx() const { return n_ctx_; }
    bool is_open() const { return n_ctx_ > 0; }

    void prefill(const std::vector<int64_t> & tokens) {
        for (size_t start = 0; start < tokens.size(); start += size_t(settings_.n_ubatch)) {
            n_last_ = int(std::min(tokens.size() - start, size_t(settings_.n_ubatch)));
            last_ = pass(&tokens[start], n_last_);
        }
    }
    std::vector<int64_t> tokens_of(Words & words, int least) const {
        std::vector<int64_t> found;
        for (int n = words.whole(least, MOST_TOKENS); n > 0; n--) {
            found.push_back(words.whole(0, n_vocab - 1));
        }
        return found;
    }
    Request request_of(Words & words) const {
        Request found;
        for (int64_t token : tokens_of(words, 0)) {
            found.enders.insert(int(token));
        }
        found.tokens = tokens_of(words, 1);
        return found;
    }
    const std::vector<int64_t> & prompt_of(const Request & request) const { return request.tokens; }
    bool shows(int64_t) const { return true; }  // it has no texts
    int64_t next_of(const Request & request) {  // the likeliest token that does not end the text
        if (!last_) {
            throw Refused("nothing was evaluated yet: there is no next token");
        }
        take_row(last_.get(), n_last_ - 1, n_last_);
        int best = -1;
        for (int token = 0; token < n_vocab; token++) {
            if ((best < 0 || row_[size_t(token)] > row_[size_t(best)]) && !request.enders.count(token)) {
                best = token;
            }
        }
        return best;
    }

    // Evaluates a text from an empty cache: (position, token) -> log-probability of what comes after a position.
    std::map<std::pair<int, int>, double> evaluate(
            const std::vector<int64_t> & tokens, const std::map<int, std::set<int>> & asked) {
        reset();
        std::map<std::pair<int, int>, double> found;
        const int n = int(tokens.size());
        // A graph made for writing gives its last logits only: from the first that is read on, token by token.
        const int n_together = last_only_ ? std::min(n, asked.begin()->first + 1) : n;
        for (int start = 0; start < n;) {
            const int end = start < n_together ? std::min(start + settings_.n_ubatch, n_together) : start + 1;
            const Value logits = pass(&tokens[size_t(start)], end - start);
            for (auto one = asked.lower_bound(start); one != asked.end() && one->first < end; ++one) {
                take_row(logits.get(), one->first - start, end - start);
                read(one->first, one->second, found);
            }
            start = end;
        }
        return found;
    }

    int64_t cache_bytes() const { return shares_buffer_ && n_ctx_ ? bytes_per_cell_ * n_ctx_ : -1; }
    std::string facts() const {
        return Line("facts")
            .raw("versions", "{\"onnxruntime\":" + json_text(api_version) + "}")
            .raw("providers", "[\"CPUExecutionProvider\"]")
            .add("layout", is_genai_ ? "genai" : "plain")
            .flag("shared_buffer", shares_buffer_)
            .add("cache_dtype", cache_type_ == FLOAT ? "float32" : "float16")
            .add("n_threads", settings_.n_threads)
            .add("n_vocab", n_vocab)
            .object();
    }

    int n_vocab = 0;
    const bool add_bos = false;  // random tokens stay as they are
    const int64_t bos = -1;

  private:
    // What the graph wants and gives; refused unless it is a text generator that wants what is fed here.
    void look_at(const Configuration & genai, const Configuration & config) {
        size_t n_inputs = 0, n_outputs = 0;
        count_inputs(session_.get(), &n_inputs);
        count_outputs(session_.get(), &n_outputs);
        std::map<std::string, Tensor> inputs, outputs;
        std::vector<std::string> pasts;
        for (size_t i = 0; i < n_inputs; i++) {
            const std::string name = named(input_name, i);
            inputs[name] = typed(input_type, i);
            if (name.rfind(PAST, 0) == 0) {
                pasts.push_back(name);
            } else if (name != "input_ids" && name != "attention_mask" && name != "position_ids") {
                throw Refused("the graph wants an input that nobody feeds: " + name);
            } else if (inputs[name].type != INT64) {
                throw Refused("the graph wants " + name + " as a type that is not known here");
            }
        }
        for (size_t i = 0; i < n_outputs; i++) {
            const std::string name = named(output_name, i);
            outputs[name] = typed(output_type, i);
        }
        const Tensor & logits = outputs["logits"];
        if (pasts.empty() || !inputs.count("input_ids") || !inputs.count("attention_mask") ||
            logits.shape.size() != 3) {
            throw Refused("the graph is no text generator with a cache: export it with one");
        }
        input_names_ = {"input_ids", "attention_mask"};
        if (inputs.count("position_ids")) {
            input_names_.push_back("position_ids");
        }
        n_fed_ = input_names_.size();
        output_names_ = {"logits"};
        cache_type_ = inputs[pasts[0]].type;
        for (const std::string & past : pasts) {
            const std::string present = "present." + past.substr(strlen(PAST));
            const Tensor & told = inputs[past];
            if (!outputs.count(present)) {
                throw Refused("the graph does not give its whole cache back: export it again");
            }
            if (told.shape.size() != 4 || told.type != cache_type_ || (told.type != FLOAT && told.type != FLOAT16)) {
                throw Refused("the graph wants " + past + " in a form that is not known here");
            }
            const int64_t n_heads = known({told.shape[1], genai.positive("num_key_value_heads"),
                                           config.positive("num_key_value_heads")});
            const int64_t width = known({told.shape[3], genai.positive("head_size"), config.positive("head_dim")});
            heads_.push_back({n_heads, width});
            bytes_per_cell_ += n_heads * width * (cache_type_ == FLOAT ? 4 : 2);
            input_names_.push_back(past);
            output_names_.push_back(present);
        }
        if (logits.type != FLOAT && logits.type != FLOAT16) {
            throw Refused("the graph gives its logits in a type that is not known here");
        }
        logits_type_ = logits.type;
        last_only_ = logits.shape[1] == 1;
        n_vocab = int(std::min<int64_t>(logits.shape[2], MOST_TOKENS));
        if (n_vocab <= 0) {  // left open: one token tells
            open(1, 1);
            const int64_t token = 0;
            n_vocab = int(std::min<int64_t>(shape_of(pass(&token, 1).get()).back(), MOST_TOKENS));
            n_ctx_ = 0;
        }
    }
    static int64_t known(std::initializer_list<int64_t> values) {
        for (int64_t value : values) {
            if (value > 0 && value < MOST_TOKENS) {
                return value;
            }
        }
        throw Refused("the graph leaves a dimension open that its configuration does not tell");
    }
    template <typename Function>
    std::string named(const Function & function, size_t i) {
        char * name = nullptr;
        function(session_.get(), i, allocator_, &name);
        const std::string found(name);
        allocator_free(allocator_, name);
        return found;
    }
    template <typename Function>
    Tensor typed(const Function & function, size_t i) {
        OrtTypeInfo * info = nullptr;
        function(session_.get(), i, &info);
        const TypeInfo held(info);
        const OrtTensorInfo * tensor = nullptr;
        as_tensor(info, &tensor);
        return tensor ? described(tensor) : Tensor();
    }
    static std::vector<int64_t> shape_of(const OrtValue * value) {
        OrtTensorInfo * info = nullptr;
        tensor_info(value, &info);
        const TensorInfo held(info);
        return described(info).shape;
    }
    std::vector<Value> blanks(int64_t n_cells) {
        std::vector<Value> made;
        for (const auto & one : heads_) {
            const int64_t shape[] = {1, one.first, n_cells, one.second};
            OrtValue * value = nullptr;
            create_tensor(allocator_, shape, 4, cache_type_, &value);
            made.emplace_back(value);
            void * data = nullptr;
            tensor_data(value, &data);
            if (n_cells) {
                memset(data, 0, size_t(one.first * n_cells * one.second) * (cache_type_ == FLOAT ? 4 : 2));
            }
        }
        return made;
    }
    void need() const {
        if (!is_open()) {
            throw Refused("the job file scores before it opens a context");
        }
    }
    Value wrapped(const int64_t * data, int64_t n) {
        const int64_t shape[] = {1, n};
        OrtValue * value = nullptr;
        wrap_tensor(memory_, const_cast<int64_t *>(data), size_t(n) * sizeof *data, shape, 2, INT64, &value);
        return Value(value);
    }
    // Evaluates tokens after what is cached; their logits. What the graph gives back as its cache is what it is
    // given next, and is copied nowhere; a shared buffer is given and taken at once.
    Value pass(const int64_t * tokens, int n) {
        need();
        const int n_all = n_seen_ + n;
        if (n_all > n_ctx_) {
            throw Refused("the context of " + std::to_string(n_ctx_) + " tokens is full (" + std::to_string(n_all) +
                          " needed)");
        }
        const Value fed[] = {
            wrapped(tokens, n), wrapped(ones_.data(), n_all), wrapped(&positions_[size_t(n_seen_)], n)};
        std::vector<const OrtValue *> in;
        std::vector<OrtValue *> out(1 + cells_.size(), nullptr);
        std::vector<const char *> in_names, out_names;
        for (size_t i = 0; i < input_names_.size(); i++) {
            in_names.push_back(input_names_[i].c_str());
            in.push_back(i < n_fed_ ? fed[i].get() : cells_[i - n_fed_].get());
        }
        for (size_t i = 0; i < output_names_.size(); i++) {
            out_names.push_back(output_names_[i].c_str());
            out[i] = shares_buffer_ && i ? cells_[i - 1].get() : nullptr;
        }
        run_session(session_.get(), nullptr, in_names.data(), in.data(), in.size(), out_names.data(), out.size(),
                    out.data());
        Value logits(out[0]);
        for (size_t i = 0; i < cells_.size() && !shares_buffer_; i++) {
            cells_[i].reset(out[i + 1]);
        }
        n_seen_ = n_all;
        return logits;
    }
    void take_row(OrtValue * logits, int row, int n_rows) {  // one position's logits, to `row_`
        if (shape_of(logits) != std::vector<int64_t>{1, last_only_ ? 1 : n_rows, n_vocab}) {
            throw Refused("the graph gives logits of another shape than it says");
        }
        void * data = nullptr;
        tensor_data(logits, &data);
        const size_t begin = last_only_ ? 0 : size_t(row) * size_t(n_vocab);
        row_.resize(size_t(n_vocab));
        for (size_t i = 0; i < row_.size(); i++) {
            row_[i] = logits_type_ == FLOAT ? static_cast<const float *>(data)[begin + i]
                                            : from_half(static_cast<const uint16_t *>(data)[begin + i]);
        }
    }
    void read(int position, const std::set<int> & tokens, std::map<std::pair<int, int>, double> & found) const {
        const double top = double(*std::max_element(row_.begin(), row_.end()));
        double sum = 0;
        for (float logit : row_) {
            sum += std::exp(double(logit) - top);
        }
        const double norm = top + std::log(sum);
        for (int token : tokens) {
            found[{position, token}] = double(row_[size_t(token)]) - norm;
        }
    }

    static constexpr const char * PAST = "past_key_values.";
    Settings settings_;
    OrtEnv * env_ = nullptr;
    OrtAllocator * allocator_ = nullptr;
    OrtMemoryInfo * memory_ = nullptr;
    Session session_;
    std::vector<std::string> input_names_, output_names_;  // what is fed and then the cache; logits and then it
    size_t n_fed_ = 0;
    std::vector<std::pair<int64_t, int64_t>> heads_;  // and their width, of each piece of the cache
    int cache_type_ = 0, logits_type_ = 0, n_ctx_ = 0, n_seen_ = 0;
    int64_t bytes_per_cell_ = 0;
    bool is_genai_ = false, shares_buffer_ = false, last_only_ = false;
    std::vector<Value> cells_;
    Value last_;  // logits of the last tokens that were prefilled
    int n_last_ = 0;
    std::vector<int64_t> ones_, positions_;
    std::vector<float> row_;
};

// ---- a job ----------------------------------------------------------------------------------------------

class Job : public JobFile<Model, Settings> {
  public:
    using JobFile::JobFile;

  private:
    bool set(const std::string & key, Words & words) override {
        if (key == "threads") {
            settings_.n_threads = words.whole(1, 1024);
        } else if (key == "ubatch") {
            settings_.n_ubatch = words.whole(1, 1 << 20);
        } else if (std::set<std::string>{"batch", "flash", "type_k", "type_v", "mmap"}.count(key)) {
            words.word();
        } else {
            return false;
        }
        return true;
    }
    void own_step(const std::string & op, Words & words) override {
        if (op == "plain") {
            plain(words);
        } else if (op == "item") {
            item(words);
        } else {
            words.fail("has an op " + op + ", which ONNX Runtime's program does not know");
        }
    }
    void plain(Words & words) {  // a text, and what is read of it for one item
        const int number = words.whole(0, 1 << 30);
        if (!sums_.empty() && number != item_) {
            words.fail("begins an item before the one before it is told");
        }
        item_ = number;
        const std::vector<int64_t> text = model_->tokens_of(words, 1);
        struct Read {
            int continuation, position, token;
        };
        std::vector<Read> reads;
        std::map<int, std::set<int>> asked;
        const int n_reads = words.whole(1, MOST_TOKENS);
        for (int i = 0; i < n_reads; i++) {
            const int continuation = words.whole(0, 1 << 16), position = words.whole(0, int(text.size()) - 1);
            reads.push_back({continuation, position, words.whole(0, model_->n_vocab - 1)});
            asked[position].insert(reads.back().token);
        }
        const auto found = model_->evaluate(text, asked);
        for (const Read & read : reads) {
            sums_[read.continuation] += found.at({read.position, read.token});
        }
    }
    void item(Words & words) {  // all of its texts have been read
        const int number = words.whole(0, 1 << 30), n = words.whole(1, 1 << 16);
        std::vector<double> sums;
        for (int k = 0; k < n; k++) {
            if (number != item_ || !sums_.count(k)) {
                words.fail("tells an item of which something was not read");
            }
            sums.push_back(sums_[k]);
        }
        sums_.clear();
        answer(number, sums);
    }

    int item_ = 0;
    std::map<int, double> sums_;  // of the item that is being read, by continuation
};

}  // namespace

int main(int argc, char ** argv) {
    const std::string verb = argc > 1 ? argv[1] : "";
    return status_of([&] {
        if (verb == "--version" && argc == 2) {
            open_library();
            Line("version").add("job_format", FORMAT).add("onnxruntime", api_version).write();
            return 0;
        }
        if (argc != 3 || verb.rfind("--", 0) == 0) {
            fprintf(stderr, "edgebench-ort JOB OUT | --version\n");
            return 2;
        }
        write_to(argv[2]);
        open_library();
        Job(argv[1]).run();
        Line("done").write();
        return 0;
    });
}
