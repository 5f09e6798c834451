// Tracks one object with OpenVINO and the standard library alone.
//
//   mixformerv2 export MODEL FOLDER --target openvino
//   ffmpeg -v error -i video.mp4 -f image2pipe -c:v ppm - | build/track FOLDER x,y,w,h
//
// Prints a line frame,x,y,w,h,score for every frame after the first. With OpenCV at hand, put cv::VideoCapture in the
// place of read_ppm: all that follows wants is rows of RGB bytes.
#include <openvino/openvino.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    int width = 0, height = 0;
    std::vector<uint8_t> rgb;
};

bool read_ppm(std::istream& in, Image& image) {
    std::string kind;
    int levels = 0;
    if (!(in >> kind >> image.width >> image.height >> levels)) return false;
    if (kind != "P6" || levels != 255) throw std::runtime_error("standard input must hold binary PPM pictures");
    in.get();
    image.rgb.resize(3 * size_t(image.width) * image.height);
    return bool(in.read(reinterpret_cast<char*>(image.rgb.data()), image.rgb.size()));
}

// The rules in the folder's config.json; its names are all different, so no parser is needed.
struct Config {
    explicit Config(const std::string& path) {
        std::ifstream file(path);
        if (!file) throw std::runtime_error(path + " cannot be read");
        const std::string text(std::istreambuf_iterator<char>(file), {});
        const std::regex field(R"re("(\w+)": (true|false|[-+.\w]*\d))re");
        for (std::sregex_iterator at(text.begin(), text.end(), field), end; at != end; ++at)
            numbers[(*at)[1]] = (*at)[2] == "true" ? 1 : std::strtod((*at)[2].str().c_str(), nullptr);  // false is 0
        if (number("online_templates") != 1) throw std::runtime_error("this example knows one online template");
    }
    double number(const std::string& name) const {
        const auto found = numbers.find(name);
        if (found == numbers.end()) throw std::runtime_error("config.json has no " + name);
        return found->second;
    }
    std::map<std::string, double> numbers;
};

struct Box { double x1, y1, x2, y2; };
struct Window { int left, top, side; double origin_x, origin_y; };

class Tracker {
public:
    Tracker(const std::string& folder) : config(folder + "/config.json") {
        ov::Core core;
        const size_t small = config.number("template_px"), large = config.number("search_px");
        auto encode = core.read_model(folder + "/encode_templates.xml");
        encode->reshape({{"template", ov::PartialShape{1, int64_t(small), int64_t(small), 3}},
                         {"online", ov::PartialShape{1, 1, int64_t(small), int64_t(small), 3}}});
        auto search = core.read_model(folder + "/search.xml");
        std::map<std::string, ov::PartialShape> shapes{{"crop", ov::PartialShape{1, int64_t(large), int64_t(large), 3}}};
        for (size_t i = 0; i < encode->outputs().size(); ++i)
            shapes[search->input(i + 1).get_any_name()] = encode->output(i).get_partial_shape();
        search->reshape(shapes);
        const ov::AnyMap options{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                 ov::hint::inference_precision(ov::element::f32)};
        encoder = core.compile_model(encode, "CPU", options).create_infer_request();
        searcher = core.compile_model(search, "CPU", options).create_infer_request();
        for (size_t i = 0; i < encode->outputs().size(); ++i)  // the cache stays where it is made
            searcher.set_input_tensor(i + 1, encoder.get_output_tensor(i));
    }

    void init(const Image& frame, double x, double y, double w, double h) {
        const auto within = [](double value, double end) { return std::clamp(value, 0.0, end); };
        box = {within(x, frame.width), within(y, frame.height), within(x + w, frame.width), within(y + h, frame.height)};
        candidate = online = fixed = cut_template(frame);
        online_is_fixed = candidate_is_fixed = true;
        clear_width = box.x2 - box.x1, clear_height = box.y2 - box.y1;
        has_left = false;
        num_frames = 0;
        best_score = -1;
        encode_templates();
        calibrate(frame);
    }

    double update(const Image& frame) {  // the score; the box is in `box`
        double score;
        Box seen = look(frame, sought(), score);
        const double threshold = std::max(config.number("lost_threshold"), has_left * config.number("found_threshold"));
        if (score < threshold && config.number("widen_when_lost") > 1) {
            double wide_score;
            const Box wide = look(frame, widened(), wide_score);
            if (wide_score >= config.number("lost_threshold")) {
                const double least = config.number("min_side_px");
                double near_score;
                Box near{};
                inside((wide.x1 + wide.x2) / 2, wide.x2 - wide.x1, least, frame.width, near.x1, near.x2);
                inside((wide.y1 + wide.y2) / 2, wide.y2 - wide.y1, least, frame.height, near.y1, near.y2);
                near = look(frame, near, near_score);
                if (near_score >= std::max(threshold, config.number("found_threshold"))) seen = near, score = near_score;
            }
        }
        const bool held = score < threshold && config.number("hold_when_lost");
        if (!held) {
            move(seen.x1, seen.x2, width_factor, frame.width, box.x1, box.x2);
            move(seen.y1, seen.y2, height_factor, frame.height, box.y1, box.y2);
        }
        const double w = box.x2 - box.x1, h = box.y2 - box.y1;
        const bool clear = std::min(box.x1, frame.width - box.x2) >= 0.1 * w && std::min(box.y1, frame.height - box.y2) >= 0.1 * h;
        has_left = held && !clear && config.number("found_threshold") > 0;
        if (clear) clear_width = w, clear_height = h;  // a box that is held is as large as before
        refresh_template(frame, held ? 0.0 : score);
        return score;
    }

    Box box{};

private:
    // The last box; that of a target that was lost at the border as large as it was when it last was clear of it.
    Box sought() const {
        if (!has_left) return box;
        const double x = std::max(clear_width - box.x2 + box.x1, 0.0) / 2, y = std::max(clear_height - box.y2 + box.y1, 0.0) / 2;
        return {box.x1 - x, box.y1 - y, box.x2 + x, box.y2 + y};
    }

    // What is sought, larger, so that the window around it is.
    Box widened() const {
        const Box box = sought();
        const double grown = (config.number("widen_when_lost") - 1) / 2, x = (box.x2 - box.x1) * grown, y = (box.y2 - box.y1) * grown;
        return {box.x1 - x, box.y1 - y, box.x2 + x, box.y2 + y};
    }

    // A side of the box to what was seen: its length corrected, and a part of its change taken back.
    void move(double from, double to, double factor, double end, double& low, double& high) const {
        const double last = high - low, inertia = config.number("size_inertia");
        double middle = (from + to) / 2, length = (to - from) * factor;
        if (inertia) {
            inside(middle, std::max(length, 1e-6), 1e-6, end, low, high);
            const double now = high - low;
            middle = (low + high) / 2;
            length = now * std::pow(last / now, inertia);
        }
        inside(middle, length, config.number("min_side_px"), end, low, high);
    }

    // Both ends, moved into the frame, and no closer than they may be.
    static void inside(double middle, double length, double least, double end, double& low, double& high) {
        least = std::min(least, end);
        low = std::min(std::max(middle - length / 2, 0.0), end - least);
        high = std::max(std::min(std::max(middle + length / 2, least), end), low + least);
    }

    // The network's box in the frame, in a window around a box.
    Box look(const Image& frame, const Box& sought, double& score) {
        const Window window = around(sought, config.number("search_factor"));
        ov::Tensor crop = searcher.get_input_tensor(0);
        cut(frame, window, int(crop.get_shape()[1]), crop.data<uint8_t>());
        searcher.infer();
        const float* unit = searcher.get_output_tensor(0).data<float>();
        score = searcher.get_output_tensor(1).data<float>()[0];
        return {unit[0] * window.side + window.origin_x, unit[1] * window.side + window.origin_y,
                unit[2] * window.side + window.origin_x, unit[3] * window.side + window.origin_y};
    }

    // A network sees some targets too wide, always: the median of some looks at the first frame says by how much.
    void calibrate(const Image& frame) {
        width_factor = height_factor = 1;
        const double share = config.number("size_calibration");
        if (share == 0) return;
        // How much larger the window is (logarithm), where the target lies in it (in its sides).
        const double looks[5][3] = {{0, 0, 0}, {0.2, 0.3, 0}, {-0.2, -0.3, 0}, {0.1, 0, 0.3}, {-0.1, 0, -0.3}};
        const double w = box.x2 - box.x1, h = box.y2 - box.y1;
        std::vector<double> widths, heights;
        for (const auto& [log_scale, x, y] : looks) {
            const double grown = std::exp(log_scale) / 2;
            const double middle_x = (box.x1 + box.x2) / 2 + w * x, middle_y = (box.y1 + box.y2) / 2 + h * y;
            const Box moved{middle_x - w * grown, middle_y - h * grown, middle_x + w * grown, middle_y + h * grown};
            double score;
            const Box seen = look(frame, moved, score);
            const double seen_w = seen.x2 - seen.x1, seen_h = seen.y2 - seen.y1;
            const double common = std::max(std::min(box.x2, seen.x2) - std::max(box.x1, seen.x1), 0.0) *
                                  std::max(std::min(box.y2, seen.y2) - std::max(box.y1, seen.y1), 0.0);
            if (seen_w <= 0 || seen_h <= 0 || common / (w * h + seen_w * seen_h - common) < 0.3) continue;
            widths.push_back(std::log(w / seen_w));
            heights.push_back(std::log(h / seen_h));
        }
        const auto factor = [&](std::vector<double>& errors) {
            if (errors.empty()) return 1.0;
            std::sort(errors.begin(), errors.end());
            const double median = (errors[(errors.size() - 1) / 2] + errors[errors.size() / 2]) / 2;
            return std::exp(share * std::clamp(median, -0.7, 0.7));
        };
        width_factor = factor(widths);
        height_factor = factor(heights);
    }

    // At the end of every interval, the crop that scored best in it becomes the online template.
    void refresh_template(const Image& frame, double score) {
        ++num_frames;
        best_score *= config.number("score_decay");
        if (score > std::max(config.number("update_threshold"), best_score)) {
            candidate = cut_template(frame);
            candidate_is_fixed = false;
            best_score = score;
        }
        if (num_frames % int(config.number("update_interval"))) return;
        if (!(candidate_is_fixed && online_is_fixed)) {
            online = candidate;
            online_is_fixed = candidate_is_fixed;
            encode_templates();
        }
        candidate = fixed;
        candidate_is_fixed = true;
        best_score = -1;
    }

    void encode_templates() {
        std::copy(fixed.begin(), fixed.end(), encoder.get_input_tensor(0).data<uint8_t>());
        std::copy(online.begin(), online.end(), encoder.get_input_tensor(1).data<uint8_t>());
        encoder.infer();
    }

    std::vector<uint8_t> cut_template(const Image& frame) const {
        const int px = config.number("template_px");
        std::vector<uint8_t> crop(3 * px * px);
        const Window window = around(box, config.number("template_factor"));
        cut(frame, window, px, crop.data());
        // The box is brighter than what surrounds it, where the network wants that.
        const float surround = config.number("template_surround");
        const auto between = [&](int pixel, double from, double to) {
            const double middle = (pixel + 0.5) / px;
            return middle >= from / window.side && middle < to / window.side;
        };
        for (int y = 0; y < px; ++y)
            for (int x = 0; x < px; ++x)
                if (!between(x, box.x1 - window.origin_x, box.x2 - window.origin_x) || !between(y, box.y1 - window.origin_y, box.y2 - window.origin_y))
                    for (int channel = 0; channel < 3; ++channel) {
                        uint8_t& value = crop[3 * (y * px + x) + channel];
                        value = uint8_t(std::nearbyint(value * surround));
                    }
        return crop;
    }

    Window around(const Box& box, double factor) const {
        const double w = box.x2 - box.x1, h = box.y2 - box.y1;
        const int side = std::max(int(std::ceil(std::sqrt(w * h) * factor - 1e-9)), 1);
        const double x = box.x1 + 0.5 * w - 0.5 * side, y = box.y1 + 0.5 * h - 0.5 * side;
        const int left = std::nearbyint(x), top = std::nearbyint(y);
        if (config.number("published_mapping")) return {left, top, side, x, y};
        return {left, top, side, double(left), double(top)};
    }

    // The window resized as cv::resize does it, in integers to the bit; black where it leaves the frame.
    void cut(const Image& frame, const Window& window, int px, uint8_t* crop) const {
        const int rim = config.number("published_mapping");
        const auto pixel = [&](int x, int y, int channel) -> int {
            x += window.left, y += window.top;
            if (x < 0 || y < 0 || x >= frame.width - rim || y >= frame.height - rim) return 0;
            return frame.rgb[3 * (size_t(y) * frame.width + x) + channel];
        };
        std::vector<Tap> taps;
        for (int index = 0; index < px; ++index) taps.emplace_back(index, window.side, px);
        for (const Tap& row : taps)
            for (const Tap& column : taps)
                for (int channel = 0; channel < 3; ++channel) {
                    const auto along = [&](int y) {
                        return pixel(column.first, y, channel) * column.near + pixel(column.second, y, channel) * column.far;
                    };
                    const int above = row.near * (along(row.first) >> 4) >> 16;
                    const int below = row.far * (along(row.second) >> 4) >> 16;
                    *crop++ = uint8_t((above + below + 2) >> 2);
                }
    }

    // Between which two pixels an output pixel lies, and what it takes of each, in parts of 2048.
    struct Tap {
        Tap(int index, int side, int px) {
            float at = float((index + 0.5) * side / px - 0.5);
            first = int(std::floor(at));
            at -= first;
            if (first < 0) first = 0, at = 0;
            if (first >= side - 1) first = side - 1, at = 0;
            second = std::min(first + 1, side - 1);
            near = int(std::lrint((1 - at) * 2048)), far = int(std::lrint(at * 2048));
        }
        int first, second, near, far;
    };

    Config config;
    ov::InferRequest encoder, searcher;
    std::vector<uint8_t> fixed, online, candidate;
    bool online_is_fixed = true, candidate_is_fixed = true;
    int num_frames = 0;
    bool has_left = false;
    double clear_width = 0, clear_height = 0, best_score = -1, width_factor = 1, height_factor = 1;
};

int main(int argc, char** argv) try {
    double x, y, w, h;
    if (argc != 3 || std::sscanf(argv[2], "%lf,%lf,%lf,%lf", &x, &y, &w, &h) != 4)
        throw std::runtime_error("usage: track FOLDER x,y,w,h < pictures.ppm");
    Tracker tracker(argv[1]);
    Image frame;
    for (int index = 0; read_ppm(std::cin, frame); ++index) {
        if (index == 0) {
            tracker.init(frame, x, y, w, h);
            continue;
        }
        const double score = tracker.update(frame);
        const Box& b = tracker.box;
        std::printf("%d,%.3f,%.3f,%.3f,%.3f,%.4f\n", index, b.x1, b.y1, b.x2 - b.x1, b.y2 - b.y1, score);
    }
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
