// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package org.nasbackup;

/** A file that a {@link StoppedDisk} may stand on. */
public final class BackingFile {
    private final String path;
    private final String format;

    private BackingFile(String path, String format) {
        this.path = path;
        this.format = format;
    }

    /**
     * @param path see {@link #path}
     * @param format see {@link #format}
     */
    public static BackingFile of(String path, String format) {
        return new BackingFile(path, format);
    }

    /** Its absolute path. */
    public String path() {
        return path;
    }

    /** {@code qcow2} or {@code raw}; never probed. */
    public String format() {
        return format;
    }

    @Override
    public String toString() {
        return path + " (" + format + ")";
    }
}
