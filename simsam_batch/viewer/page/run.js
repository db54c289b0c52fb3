// The run: how far each stage is, what it found, and with which settings.

import { ask } from './asking.js'
import { h, shown } from './dom.js'
import { when } from './states.js'

/** @type {import('./main.js').Screen} */
export const run = { title: 'Run', fits: () => true, show }

/** @param {import('./main.js').View} view */
async function show(view) {
  await when(view.place, 'the run', () => ask('api/status', {}, view.signal), (found) => [
    h('h1', {}, 'Run'),
    h('div', { class: 'wide' }, h('table', {},
      h('thead', {}, h('tr', {}, ['stage', 'done', 'of'].map((each) => h('th', { scope: 'col' }, each)))),
      h('tbody', {}, Object.entries(found.stages).map(([stage, of]) =>
        h('tr', {}, h('th', { scope: 'row' }, stage), h('td', { class: 'number' }, shown(of.done)), h('td', { class: 'number' }, shown(of.images)))))))])
}
