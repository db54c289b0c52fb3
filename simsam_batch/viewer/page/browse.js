// Many images at once.

import { h } from './dom.js'

/** @type {import('./main.js').Screen} */
export const browse = { title: 'Browse', fits: (about) => about.stages.some((/** @type {any} */ stage) => stage.of_images), show }

/** @param {import('./main.js').View} view */
function show(view) {
  view.place.append(h('h1', {}, 'Browse'))
}
