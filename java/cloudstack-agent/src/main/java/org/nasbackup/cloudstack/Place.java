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

package org.nasbackup.cloudstack;

import org.nasbackup.OutputFormat;

/** A volume that this host can write, until it is closed. */
public final class Place {
    /** The type of a disk's source, as libvirt names it. */
    public enum Kind {
        FILE,
        BLOCK,
        NETWORK
    }

    private final Kind kind;
    private final String path;
    private final OutputFormat format;
    private final String source;
    private Runnable disconnect = () -> {};
    private Runnable remove = () -> {};

    /**
     * @param path a file, a block device, or QEMU's name for an image in Ceph, with the key
     * @param source the {@code <source>} of the disk in the XML of a domain that gets the volume, and what follows it
     */
    Place(Kind kind, String path, OutputFormat format, String source) {
        this.kind = kind;
        this.path = path;
        this.format = format;
        this.source = source;
    }

    Place disconnectedBy(Runnable disconnect) {
        this.disconnect = disconnect;
        return this;
    }

    Place removedBy(Runnable remove) {
        this.remove = remove;
        return this;
    }

    Kind kind() {
        return kind;
    }

    String path() {
        return path;
    }

    OutputFormat format() {
        return format;
    }

    String source() {
        return source;
    }

    /** Says that a guest has the volume: the host stays connected to it. */
    void keep() {
        disconnect = () -> {};
    }

    /** Says that a guest may have the volume: the host stays connected to it, and it is not removed. */
    void leave() {
        keep();
        remove = () -> {};
    }

    void close() {
        disconnect.run();
    }

    /** Removes a closed volume that was made for this restore. */
    void remove() {
        remove.run();
    }
}
