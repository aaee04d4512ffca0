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

/** What a host answers to a backup command. The sizes are in bytes; its texts are a host's word, and are read in one line. */
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

    /** As many backups as may are under way on the host: nothing was touched, and it can be asked again. */
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

    /** {@code full} or {@code incremental}: what the host made; null: CloudStack's own hosts don't say. */
    public String getKind() {
        return kind;
    }

    public void setKind(String kind) {
        this.kind = kind;
    }

    /** By which a restore point is told from any other that takes its place; null: CloudStack's own hosts give it none. */
    public String getPointId() {
        return OneLine.of(pointId);
    }

    public void setPointId(String pointId) {
        this.pointId = pointId;
    }

    /** What vouches for the restore point with the hosts' key; null: they have none. */
    public String getMac() {
        return OneLine.of(mac);
    }

    public void setMac(String mac) {
        this.mac = mac;
    }

    /** Does the host restore with our wrapper? CloudStack's own hosts don't say, and earlier ones of ours. */
    public boolean getRestoresChains() {
        return Boolean.TRUE.equals(restoresChains);
    }

    public void setRestoresChains(Boolean restoresChains) {
        this.restoresChains = restoresChains;
    }
}
