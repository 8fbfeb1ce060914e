// edgebench-ort: does a job file's measurements with ONNX Runtime, and writes what it found as JSON lines.
//
//   edgebench-ort JOB OUT       do JOB; every line goes to OUT (appended) and to standard output
//   edgebench-ort --version     which library it found
//
// It decides nothing: tests, tokens and texts stand in the job file (edgebench/runners/native_job.py, which
// describes the format). Times are seconds of CLOCK_BOOTTIME, the clock of /proc/uptime. One process, one graph.
//
// libonnxruntime.so.1 lies beside it and is opened by name: the wheels bring the library without its header, so
// functions are called by their place in its table, which only ever grows.

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

const char * const FORMAT = "edgebench-job 1";
const char * const LIBRARY = "libonnxruntime.so.1";
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

struct Settings {  // the others that a job file has are llama.cpp's: here the graph decides
    int n_threads = 1, n_ubatch = 512;
};

// ---- the model ------------------------------------------------------------------------------------------

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
        const std::string named = quoted(key);
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
    int64_t greedy(const std::set<int> & enders) {  // the likeliest token that does not end the text
        if (!last_) {
            throw Refused("nothing was evaluated yet: there is no next token");
        }
        take_row(last_.get(), n_last_ - 1, n_last_);
        int best = -1;
        for (int token = 0; token < n_vocab; token++) {
            if ((best < 0 || row_[size_t(token)] > row_[size_t(best)]) && !enders.count(token)) {
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
        const std::string & version = api_version;  // of one that is not const, std's own `quoted` would be taken
        return Line("facts")
            .raw("versions", "{\"onnxruntime\":" + quoted(version) + "}")
            .raw("providers", "[\"CPUExecutionProvider\"]")
            .add("layout", is_genai_ ? "genai" : "plain")
            .flag("shared_buffer", shares_buffer_)
            .add("cache_dtype", cache_type_ == FLOAT ? "float32" : "float16")
            .add("n_threads", settings_.n_threads)
            .add("n_vocab", n_vocab)
            .object();
    }

    int n_vocab = 0;

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

// ---- speed ----------------------------------------------------------------------------------------------

struct Test {
    std::string name;
    int n_prompt = 0, n_gen = 0, n_depth = 0, first = 0, n_rep = 1;
    uint32_t seed = 0;
    std::vector<int64_t> asked;  // a request
    std::set<int> enders;
    double min_s = 0, sustained_s = 0;
};

struct Timed {
    double prefill_s = -1, decode_s = -1, ttft_s = -1, total_s = 0, engine_s = -1;
    int n_prompt = 0, n_gen = 0;
    std::vector<double> token_times_s;
};

class Bench {
  public:
    explicit Bench(Model & model) : model_(model) {}

    void run(const Test & test) {
        random_.seed(test.seed);
        model_.open(int(test.asked.size()) + test.n_prompt + test.n_gen + test.n_depth, 1);
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
            model_.prefill(tokens(test.n_depth));
        }
        reset_peak();
        const double canary_before_s = spin_s();
        const Memory before = read_memory();
        begun_at_ = now_s();
        const Timed timed = !test.asked.empty()    ? reply(test)
                            : test.sustained_s > 0 ? sustained(test)
                                                   : synthetic(test);
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
    std::vector<int64_t> tokens(int n) {
        std::vector<int64_t> made;
        for (int i = 0; i < n; i++) {
            made.push_back(int64_t(random_() % uint32_t(model_.n_vocab)));
        }
        return made;
    }
    double timed_prefill(const std::vector<int64_t> & part, double & inside_s) {
        const double begun = now_s();
        model_.prefill(part);
        const double done = now_s();
        inside_s += done - begun;
        return done;
    }
    Timed synthetic(const Test & test) {
        const std::vector<int64_t> prompt = tokens(test.n_prompt);
        const std::vector<int64_t> steps = tokens(test.n_gen);
        Timed timed;
        timed.n_prompt = test.n_prompt;
        timed.n_gen = test.n_gen;
        timed.engine_s = 0;
        const double start = now_s();
        const double prefilled = prompt.empty() ? start : timed_prefill(prompt, timed.engine_s);
        double end = prefilled;
        for (int64_t token : steps) {
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
            for (int64_t token : tokens(test.n_gen)) {
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
    Timed reply(const Test & test) {
        Timed timed;
        const double start = now_s();
        model_.prefill(test.asked);
        const double prefilled = now_s();
        double end = prefilled;
        for (int i = 0; i < test.n_gen; i++) {
            const int64_t token = model_.greedy(test.enders);
            end = now_s();
            timed.token_times_s.push_back(end - start);
            if (i < test.n_gen - 1) {
                model_.prefill({token});
            }
        }
        timed.n_prompt = int(test.asked.size());
        timed.n_gen = test.n_gen;
        timed.prefill_s = prefilled - start;
        timed.ttft_s = timed.token_times_s.front();
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

  private:
    bool next() {
        number_++;
        return bool(std::getline(in_, line_));
    }
    void settings(Words & words) {
        for (int i = 0; i < 7; i++) {
            const std::string key = words.word();
            if (key == "threads") {
                settings_.n_threads = words.whole(1, 1024);
            } else if (key == "ubatch") {
                settings_.n_ubatch = words.whole(1, 1 << 20);
            } else if (std::set<std::string>{"batch", "flash", "type_k", "type_v", "mmap"}.count(key)) {
                words.word();
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
        model_.reset(new Model(path_, settings_));
        const double end = now_s();
        Line("loaded").add("load_s", end - start).add("start_s", start).add("end_s", end)
            .maybe("baseline_rss_bytes", before.rss).raw("facts", model_->facts()).write();
    }
    void step(const std::string & op, Words & words) {
        if (op == "test" || op == "sustained" || op == "ask") {
            bench(op, words);
        } else if (op == "context") {
            const int n_ctx = words.whole(1, MOST_TOKENS);
            model_->open(n_ctx, words.whole(1, 1 << 16));
        } else if (op == "group") {
            group_ = words.whole(0, 1 << 30);
            begun_s_ = now_s();
        } else if (op == "plain") {
            plain(words);
        } else if (op == "item") {
            item(words);
        } else if (op == "endgroup") {
            Line("group").add("group", group_).add("start_s", begun_s_).add("group_s", now_s() - begun_s_).write();
        } else {
            words.fail("has an op " + op + ", which ONNX Runtime's program does not know");
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
        if (op == "ask") {
            for (int64_t token : tokens(words, 0)) {
                test.enders.insert(int(token));
            }
            test.asked = tokens(words, 1);
        }
        Bench(*model_).run(test);
    }
    std::vector<int64_t> tokens(Words & words, int least) {
        std::vector<int64_t> found;
        for (int n = words.whole(least, MOST_TOKENS); n > 0; n--) {
            found.push_back(words.whole(0, model_->n_vocab - 1));
        }
        return found;
    }
    void plain(Words & words) {  // a text, and what is read of it for one item
        const int number = words.whole(0, 1 << 30);
        if (!sums_.empty() && number != item_) {
            words.fail("begins an item before the one before it is told");
        }
        item_ = number;
        const std::vector<int64_t> text = tokens(words, 1);
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
        Line("answer").add("group", group_).add("item", number).list("logprobs", sums).write();
    }

    std::ifstream in_;
    std::string line_, path_;
    int number_ = 0, group_ = 0, item_ = 0;
    double begun_s_ = 0;
    Settings settings_;
    std::map<int, double> sums_;  // of the item that is being read, by continuation
    std::unique_ptr<Model> model_;
};

}  // namespace

int main(int argc, char ** argv) {
    const std::string verb = argc > 1 ? argv[1] : "";
    try {
        if (verb == "--version" && argc == 2) {
            open_library();
            Line("version").add("job_format", FORMAT).add("onnxruntime", api_version).write();
            return 0;
        }
        if (argc != 3 || verb.rfind("--", 0) == 0) {
            fprintf(stderr, "edgebench-ort JOB OUT | --version\n");
            return 2;
        }
        out_file = fopen(argv[2], "a");
        if (!out_file) {
            fprintf(stderr, "can't write %s: %s\n", argv[2], strerror(errno));
            return 1;
        }
        open_library();
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
