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

package org.apache.cloudstack.backup;

import com.cloud.agent.api.Answer;
import com.cloud.agent.api.Command;
import java.util.Map;
import org.nasbackup.cloudstack.OneLine;

/** A host's answer to a backup command. The sizes are in bytes; a host wrote the texts, so each is read as one line. */
public class BackupAnswer extends Answer {
    private Long size;
    private Long virtualSize;
    private Map<String, String> volumes;
    Boolean needsCleanup;
    private String bitmapCreated;
    private Boolean incrementalFallback;
    private String bitmapRecreated;
    private String kind;
    private Boolean noPlace;
    private String pointId;
    private String mac;
    private Boolean restoresChains;

    public BackupAnswer(Command command, boolean success, String details) {
        super(command, success, details);
    }

    @Override
    public String getDetails() {
        return OneLine.of(super.getDetails());
    }

    public Long getSize() {
        return size;
    }

    public void setSize(Long size) {
        this.size = size;
    }

    public Long getVirtualSize() {
        return virtualSize;
    }

    public void setVirtualSize(Long virtualSize) {
        this.virtualSize = virtualSize;
    }

    public Map<String, String> getVolumes() {
        return volumes;
    }

    public void setVolumes(Map<String, String> volumes) {
        this.volumes = volumes;
    }

    public Boolean getNeedsCleanup() {
        return Boolean.TRUE.equals(needsCleanup);
    }

    public void setNeedsCleanup(Boolean needsCleanup) {
        this.needsCleanup = needsCleanup;
    }

    /** Whether the host runs as many backups as it may: nothing was touched, and the host can be asked again. */
    public Boolean getNoPlace() {
        return Boolean.TRUE.equals(noPlace);
    }

    public void setNoPlace(Boolean noPlace) {
        this.noPlace = noPlace;
    }

    public String getBitmapCreated() {
        return OneLine.of(bitmapCreated);
    }

    public void setBitmapCreated(String bitmapCreated) {
        this.bitmapCreated = bitmapCreated;
    }

    public Boolean getIncrementalFallback() {
        return Boolean.TRUE.equals(incrementalFallback);
    }

    public void setIncrementalFallback(Boolean incrementalFallback) {
        this.incrementalFallback = incrementalFallback;
    }

    public String getBitmapRecreated() {
        return OneLine.of(bitmapRecreated);
    }

    public void setBitmapRecreated(String bitmapRecreated) {
        this.bitmapRecreated = bitmapRecreated;
    }

    /** What the host made, {@code full} or {@code incremental}; null: CloudStack's own hosts don't say. */
    public String getKind() {
        return kind;
    }

    public void setKind(String kind) {
        this.kind = kind;
    }

    /** The id of the restore point, which another point in its place does not have; null: CloudStack's own hosts make none. */
    public String getPointId() {
        return OneLine.of(pointId);
    }

    public void setPointId(String pointId) {
        this.pointId = pointId;
    }

    /** The MAC that vouches for the restore point by the hosts' key; null: the hosts have no key. */
    public String getMac() {
        return OneLine.of(mac);
    }

    public void setMac(String mac) {
        this.mac = mac;
    }

    /** Whether the host restores with our wrapper; null: CloudStack's own hosts don't say, nor do earlier hosts of ours. */
    public boolean getRestoresChains() {
        return Boolean.TRUE.equals(restoresChains);
    }

    public void setRestoresChains(Boolean restoresChains) {
        this.restoresChains = restoresChains;
    }
}
