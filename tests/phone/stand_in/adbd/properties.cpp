// Puts /system/build.prop into adbd's store of properties before its main() runs: the banner tells product, model
// and device by them, and ro.adb.secure switches the question for a key on.
#include <fstream>
#include <string>

#include <android-base/properties.h>

__attribute__((constructor(65535))) static void read_properties() {
    std::ifstream file("/system/build.prop");
    for (std::string line; std::getline(file, line);) {
        const auto equals = line.find('=');
        if (equals != std::string::npos) android::base::SetProperty(line.substr(0, equals), line.substr(equals + 1));
    }
}
