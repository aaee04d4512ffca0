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

package org.nasbackup.provider;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;

/** A restore point as the catalogue has it. */
public final class Point {
    /** What stands on no other point. */
    public static final String ALONE = "none";

    private final long id;
    private final String uuid;
    private final String path;
    private final long created;
    private final boolean good;
    private final List<Volume> volumes;
    private final String chainId;
    private final String parent;
    private final Integer position;
    private final String bitmap;
    private final Long size;
    private final List<String> goals;

    private Point(Builder builder) {
        this.id = builder.id;
        this.uuid = builder.uuid;
        this.path = builder.path;
        this.created = builder.created;
        this.good = builder.good;
        this.volumes = builder.volumes;
        this.chainId = builder.chainId;
        this.parent = builder.parent;
        this.position = builder.position;
        this.bitmap = builder.bitmap;
        this.size = builder.size;
        this.goals = builder.goals;
    }

    public static Builder builder(long id, String uuid, String path) {
        return new Builder(id, uuid, path);
    }

    public long id() {
        return id;
    }

    public String uuid() {
        return uuid;
    }

    /** {@code <instance>/<timestamp>} in the repository. */
    public String path() {
        return path;
    }

    /** Milliseconds since 1970. */
    public long created() {
        return created;
    }

    /** Was the backup a success? */
    public boolean good() {
        return good;
    }

    /** In the order of their device numbers. */
    public List<Volume> volumes() {
        return volumes;
    }

    /** Null: it belongs to no chain. */
    public String chainId() {
        return chainId;
    }

    /** The uuid of the point that its images have as backing; null: none is recorded. */
    public String parent() {
        return parent;
    }

    /** 0 is a full; null: not recorded. */
    public Integer position() {
        return position;
    }

    /** The bitmap that was begun with it; null: none. */
    public String bitmap() {
        return bitmap;
    }

    /** In bytes; null: not recorded. */
    public Long size() {
        return size;
    }

    /**
     * The uuids of the points that rebases were begun to put its images onto, none of which is known to have been done, in
     * the order in which they were begun; {@link #ALONE} for nothing. Each lies below what is recorded as its parent.
     */
    public List<String> goals() {
        return goals;
    }

    /** Does it stand on its own? */
    public boolean full() {
        return parent == null && position != null && position == 0;
    }

    boolean headedFor(Point goal) {
        return goals.contains(goal.uuid);
    }

    /** The goals once another rebase is begun. */
    public List<String> goalsWith(Point newParent) {
        List<String> longer = new ArrayList<>(goals);
        String goal = newParent == null ? ALONE : newParent.uuid;
        if (!goal.equals(lastGoal())) {
            longer.add(goal);
        }
        return longer;
    }

    Point headingFor(Point newParent) {
        return copy().goals(goalsWith(newParent)).build();
    }

    /** What the images stand on once the rebase that was begun last is done; null: none was begun. */
    String lastGoal() {
        return goals.isEmpty() ? null : goals.get(goals.size() - 1);
    }

    /** @param newParent null: it is a full one, and begins a chain, which bears its uuid */
    Point onto(Point newParent) {
        Builder copy = copy().goals(List.of());
        return newParent == null
                ? copy.parent(null).chain(uuid).position(0).build()
                : copy.parent(newParent.uuid).build();
    }

    Point in(String newChain) {
        return copy().chain(newChain).build();
    }

    Point at(Integer newPosition) {
        return copy().position(newPosition).build();
    }

    /** The file of a volume, relative to the repository's root. */
    public Optional<String> fileOf(String volumeUuid) {
        for (int i = 0; i < volumes.size(); i++) {
            Volume volume = volumes.get(i);
            if (volumeUuid.equals(volume.uuid()) && volume.path() != null) {
                String name = volume.path().substring(volume.path().lastIndexOf('/') + 1);
                return Optional.of(path + (i == 0 ? "/root." : "/datadisk.") + name + ".qcow2");
            }
        }
        return Optional.empty();
    }

    /** The same point, whatever is recorded of it by now. */
    @Override
    public boolean equals(Object other) {
        return other instanceof Point && uuid.equals(((Point) other).uuid);
    }

    @Override
    public int hashCode() {
        return uuid.hashCode();
    }

    @Override
    public String toString() {
        return path;
    }

    private Builder copy() {
        return new Builder(id, uuid, path)
                .created(created)
                .good(good)
                .volumes(volumes)
                .chain(chainId)
                .parent(parent)
                .position(position)
                .bitmap(bitmap)
                .size(size)
                .goals(goals);
    }

    /** Builds a {@link Point}; what is not set is not recorded. */
    public static final class Builder {
        private final long id;
        private final String uuid;
        private final String path;
        private long created;
        private boolean good = true;
        private List<Volume> volumes = Collections.emptyList();
        private String chainId;
        private String parent;
        private Integer position;
        private String bitmap;
        private Long size;
        private List<String> goals = List.of();

        private Builder(long id, String uuid, String path) {
            this.id = id;
            this.uuid = uuid;
            this.path = path;
        }

        public Builder created(long created) {
            this.created = created;
            return this;
        }

        public Builder good(boolean good) {
            this.good = good;
            return this;
        }

        public Builder volumes(List<Volume> volumes) {
            this.volumes = List.copyOf(volumes);
            return this;
        }

        public Builder chain(String chainId) {
            this.chainId = chainId;
            return this;
        }

        public Builder parent(String parent) {
            this.parent = parent;
            return this;
        }

        public Builder position(Integer position) {
            this.position = position;
            return this;
        }

        public Builder bitmap(String bitmap) {
            this.bitmap = bitmap;
            return this;
        }

        public Builder size(Long size) {
            this.size = size;
            return this;
        }

        public Builder goals(List<String> goals) {
            this.goals = List.copyOf(goals);
            return this;
        }

        public Point build() {
            return new Point(this);
        }
    }
}
