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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Records in memory; each change is one effect. */
final class ModelCatalogue implements Catalogue {
    private final Map<Long, Point> rows = new LinkedHashMap<>();
    private final Map<Long, Long> sizes = new LinkedHashMap<>();
    private final Crash.Meter meter;

    ModelCatalogue(Crash.Meter meter) {
        this.meter = meter;
    }

    void add(Point point) {
        rows.put(point.id(), point);
    }

    Point row(long id) {
        return rows.get(id);
    }

    Long size(long id) {
        return sizes.get(id);
    }

    @Override
    public List<Point> points(long vmId) {
        return new ArrayList<>(rows.values());
    }

    @Override
    public void begun(Step rebase) {
        meter.effect();
        long id = rebase.point().id();
        rows.put(id, rows.get(id).headingFor(rebase.newParent()));
    }

    @Override
    public void rebased(Step rebase, Rebased told) {
        meter.effect();
        long id = rebase.point().id();
        rows.put(id, rows.get(id).onto(rebase.newParent()));
        sizes.put(id, told.size());
        move(rebase);
    }

    @Override
    public void deleted(Step delete) {
        meter.effect();
        rows.remove(delete.point().id());
        move(delete);
    }

    private void move(Step step) {
        step.positions().forEach((id, position) -> rows.put(id, rows.get(id).at(position)));
        step.chains().forEach((id, chain) -> rows.put(id, rows.get(id).in(chain)));
    }
}
