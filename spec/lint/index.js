// The plugin `aikeys` for Redocly CLI: rules of our own, and the set `aikeys/strict` to extend.
const rules = require('./rules.js');
const strict = require('./strict.js');

module.exports = () => ({
  id: 'aikeys',
  rules: { oas3: rules },
  configs: { strict: { rules: strict } },
});
