;; A component for some other host.
(module
  ;; @answers
  ;; @heap
  (func (export "acme:worker/handler@0.1.0#handle")))
