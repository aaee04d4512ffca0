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

/** A repository as a host reaches it. */
public interface RemoteRepository {
    /**
     * Puts all images of a point onto another point.
     *
     * @param newParent a point that they stand on, next or further down; null: they are to stand alone
     * @param going a point that is deleted next: if this one stands on it, its images may become those of this one
     * @throws AgentFailure when the host may not have done it
     */
    Rebased rebase(Point point, Point newParent, Point going);

    /**
     * Removes a point; one that is gone already is a success.
     *
     * @throws AgentFailure when the host may not have done it
     */
    void delete(Point point);
}
