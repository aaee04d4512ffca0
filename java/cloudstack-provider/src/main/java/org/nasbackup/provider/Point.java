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

/** A restore point as it is recorded. */
public final class Point {
    /** The goal of a rebase after which a point stands on no other. */
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

    /** Whether the backup succeeded. */
    public boolean good() {
        return good;
    }

    /** The volumes in the order of their device numbers. */
    public List<Volume> volumes() {
        return volumes;
    }

    /** The id of its chain; null: it belongs to none. */
    public String chainId() {
        return chainId;
    }

    /** The uuid of the point that its images have as backing; null: none is recorded. */
    public String parent() {
        return parent;
    }

    /** The place in its chain, 0 for a full one; null: not recorded. */
    public Integer position() {
        return position;
    }

    /** The bitmap that was begun with it; null: none. */
    public String bitmap() {
        return bitmap;
    }

    /** The size in bytes; null: not recorded. */
    public Long size() {
        return size;
    }

    /**
     * The uuids of the new parents of rebases of this point that were begun and are not known to be done, in the order in which they
     * were begun; {@link #ALONE} for no parent. Each lies below the recorded parent.
     */
    public List<String> goals() {
        return goals;
    }

    /** Whether the point is a full one. */
    public boolean full() {
        return parent == null && position != null && position == 0;
    }

    boolean headedFor(Point goal) {
        return goals.contains(goal.uuid);
    }

    /** The goals after another rebase was begun. */
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

    /** The goal of the rebase that was begun last; null: none was begun. */
    String lastGoal() {
        return goals.isEmpty() ? null : goals.get(goals.size() - 1);
    }

    /** @param newParent null: the point becomes a full one, and begins a chain whose id is its uuid */
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

    /** Points of one id are equal, even if their records differ. */
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
